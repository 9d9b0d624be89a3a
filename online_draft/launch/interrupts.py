"""Ctrl-C, SIGTERM and SIGHUP: one way to end, deferred where an interruption would do damage."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_Handler = Callable[[int, FrameType | None], object] | int | None

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Raises KeyboardInterrupt in the main thread. Does nothing when built in another thread."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._active = threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, _Handler] = {}
        self._deferring = False
        self._pending = False

    def catch(self) -> None:
        """Install, again after a library installed its own handlers. Idempotent."""
        if self._active:
            for number in SIGNALS:
                before = signal.signal(number, self._interrupt)
                self._before.setdefault(number, before)

    @contextmanager
    def deferred(self, reason: str) -> Iterator[None]:
        """A first signal takes effect when the block ends, a second at once. Says `reason` meanwhile."""
        self._deferring, self._reason = True, reason
        try:
            yield
        finally:
            self._deferring = False
            self.catch()
        if self._pending:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """No interruption any more, until `restore`."""
        if self._active:
            for number in self._before:
                signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Give the signals back to whoever had them. Idempotent."""
        if self._active:
            while self._before:
                signal.signal(*self._before.popitem())

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._deferring and not self._pending:
            self._pending = True
            self._say(self._reason)
            return
        raise KeyboardInterrupt
