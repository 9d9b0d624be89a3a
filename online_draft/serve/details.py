"""What a replica tells beside its status: notable requests, and what its policy counted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from online_draft.monitor.recent import RECENT_S, RecentRequests

_EVERY_S = 10.0


class Details:
    """Plain data whenever it is called; by one thread. Times of decoding are those of the last quarter of an
    hour, what was promised of drafts is counted since the engine's policy began."""

    def __init__(
        self,
        recent: RecentRequests,
        counts: Callable[[], Mapping[str, Any]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`counts` as `Engine.speculation_counts`; `clock` gives seconds."""
        self._recent = recent
        self._counts = counts
        self._clock = clock
        self._readings: deque[tuple[float, int, int]] = deque()

    def __call__(self) -> dict[str, Any]:
        """`requests`, `version`, `spent_us`, `plain_us`, `seconds` that these two are of, `sources`."""
        counts, now = self._counts(), self._clock()
        spent, plain = counts["spent_us"], counts["plain_us"]
        readings = self._readings
        if readings and spent < readings[-1][1]:  # another policy has begun to count
            readings.clear()
        if not readings or now - readings[-1][0] >= _EVERY_S:
            readings.append((now, spent, plain))
        while len(readings) > 1 and now - readings[0][0] > RECENT_S:
            readings.popleft()
        since, first_spent, first_plain = readings[0]
        return {
            "requests": self._recent.notable(),
            "version": counts["version"],
            "spent_us": spent - first_spent,
            "plain_us": plain - first_plain,
            "seconds": round(now - since),
            "sources": counts["sources"],
        }
