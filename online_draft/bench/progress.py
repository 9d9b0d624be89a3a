"""How far a long computation is: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, TaskID

LINE_EVERY_S = 15.0


class Bars:
    """Context manager; `update` may be called as often as one likes."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._progress = Progress(console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}
        self._began: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, name: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` units of the part `name` are done."""
        if self._console.is_terminal:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=total)
            about = f"{name}  {note}".rstrip()
            self._progress.update(self._tasks[name], completed=done, total=total, description=about)
            return
        now = time.monotonic()
        self._began.setdefault(name, (now, done))
        if done >= total or now - self._printed.get(name, now - LINE_EVERY_S) >= LINE_EVERY_S:
            self._printed[name] = now
            line = f"{name}: {done} of {total}  {note}".rstrip() + self._left(name, now, done, total)
            self._console.print(line, highlight=False)
            self._console.file.flush()

    def _left(self, name: str, now: float, done: int, total: int) -> str:
        """How long the rest takes at the pace since the part's first update, as text."""
        began, first = self._began[name]
        if not first < done < total:
            return ""
        minutes, seconds = divmod(round((now - began) / (done - first) * (total - done)), 60)
        return f"  {minutes // 60}:{minutes % 60:02}:{seconds:02} left"
