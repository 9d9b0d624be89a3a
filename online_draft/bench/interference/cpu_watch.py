"""Watches the CPU time of a process while a burst is served."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType

EVERY_S = 0.005
BEFORE_S = 0.1
"""The watch begins so long before the burst."""

Sample = tuple[float, float]
"""`time.monotonic()` and the process's CPU seconds."""


class CpuWatch:
    """Context manager: samples on a thread while it is entered. Linux only."""

    def __init__(self, pid: int, every_s: float = EVERY_S) -> None:
        self.samples: list[Sample] = []
        # clock_getcpuclockid(3): the clock of another process, in nanoseconds.
        self._clock = (~pid << 3) | 2
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-watch", daemon=True)

    def __enter__(self) -> CpuWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.samples.append((time.monotonic(), time.clock_gettime(self._clock)))


def worked_before(samples: Sequence[Sample], since: float) -> bool:
    """Whether the process took at least half of the time before `since`."""
    before = [sample for sample in samples if sample[0] <= since]
    if len(before) < 2:
        return False
    (begin, idle), (end, worked) = before[0], before[-1]
    return worked - idle >= 0.5 * (end - begin)


def off_after(samples: Sequence[Sample], since: float) -> float:
    """Seconds from `since` to the end of the last interval of which the process took half or more."""
    off = 0.0
    for (begin, before), (end, after) in pairwise(samples):
        if end > since and after - before >= 0.5 * (end - begin):
            off = end - since
    return off


def taken_after(samples: Sequence[Sample], since: float) -> float:
    """CPU seconds that the process took from `since` on."""
    behind = [cpu for at, cpu in samples if at >= since]
    return behind[-1] - behind[0] if behind else 0.0
