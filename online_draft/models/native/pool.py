"""The threads of the kernels."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable


def own(owner: object, free: Callable[[int], None], handle: int) -> None:
    """Free a handle with its owner, but not at exit, where a step may still be under way."""
    weakref.finalize(owner, free, handle).atexit = False


class Pool:
    """Threads that compiled code runs on, the caller's included.

    They spin for `spin_us` after the last loop, then sleep. One that the system has put aside delays nothing
    but the piece of work that it holds, so other work on the machine slows a step down without stalling it.
    """

    def __init__(self, library: ctypes.CDLL, threads: int, spin_us: int = 200) -> None:
        self.threads = threads
        self.handle = library.od_pool_new(threads, spin_us)
        own(self, library.od_pool_free, self.handle)
