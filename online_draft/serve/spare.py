"""Work for an engine's thread that nobody waits for."""

from __future__ import annotations

from typing import Protocol


class SpareWork(Protocol):
    """Done a slice at a time, and dropped as soon as the thread has something better to do.

    It is either finished, after `advance` has said so, or dropped. No method may raise.
    """

    def advance(self) -> bool:
        """Do one slice; whether it was the last. Blocks for as long as that takes: a request waits."""
        ...

    def finish(self) -> None:
        """Tell whoever asked for it. The thread is free for other such work."""
        ...

    def drop(self) -> None:
        """There is no time for it."""
        ...
