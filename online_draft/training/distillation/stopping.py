"""Ending a long computation at a good moment: by Ctrl-C, SIGTERM, or when its time is up."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Literal

Why = Literal["signal", "time"]
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Asked between two units of work: "signal" or "time" when they should end, else None.

    As a context manager it catches SIGINT and SIGTERM in the main thread: the first asks for the end and
    calls `say`, a second raises KeyboardInterrupt at once. `hours` count from the making of this object.
    """

    def __init__(self, hours: float | None = None, say: Callable[[], None] | None = None) -> None:
        self._until = None if hours is None else time.monotonic() + 3600 * hours
        self._say = say
        self._before: dict[int, Any] = {}
        self.asked = False

    def __call__(self) -> Why | None:
        if self.asked:
            return "signal"
        return "time" if self._until is not None and time.monotonic() >= self._until else None

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._caught) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _caught(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if self._say is not None:
            self._say()
