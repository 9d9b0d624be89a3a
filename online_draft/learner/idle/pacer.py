"""How many records fit into one slice."""

from __future__ import annotations

import time

_AIM = 0.8
"""Share of the limit that a slice is sized for: records differ in length."""


class Pacer:
    """Sizes batches so that one takes at most `limit_ms`, from the cost of those before. Not thread-safe.

    The cost is the CPU time of the calling thread (`cpu`), which preemption doesn't change, or wall time.
    """

    def __init__(self, limit_ms: int, max_batch: int, cpu: bool = True) -> None:
        self.batch = 1
        self.last_ms = 0.0
        self._limit_ms = limit_ms
        self._max_batch = max_batch
        self._clock = time.thread_time if cpu else time.perf_counter
        self._started = 0.0
        self._per_record_ms = 0.0
        self._warm = False
        self._void = False

    def __enter__(self) -> int:
        """Begin a slice; the number of records to take."""
        self._started = self._clock()
        self._void = False
        return self.batch

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.last_ms = (self._clock() - self._started) * 1000
        if not self._void and kind is None:
            self.note(self.batch, self.last_ms)

    def void(self) -> None:
        """The slice under way ended early: its time says nothing."""
        self._void = True

    def shrink(self) -> bool:
        """There was no memory for that many records: never again; False when it was only one."""
        self._max_batch = max(1, self.batch // 2)
        fits, self.batch = self.batch > 1, self._max_batch
        return fits

    def note(self, records: int, milliseconds: float) -> None:
        """Learn from one slice. The first one also pays for warming up and only counts if it was quick."""
        self.last_ms = milliseconds
        cost = milliseconds / max(1, records)
        if not self._warm:
            self._warm = True
            if milliseconds > self._limit_ms:
                return
            self._per_record_ms = cost
        else:
            self._per_record_ms = cost if not self._per_record_ms else 0.7 * self._per_record_ms + 0.3 * cost
        # One slice over the limit shrinks the next at once; growing takes several.
        allowed = int(
            _AIM
            * self._limit_ms
            / max(self._per_record_ms, cost if milliseconds > self._limit_ms else 0, 1e-3)
        )
        self.batch = max(1, min(allowed, 2 * self.batch, self._max_batch))
