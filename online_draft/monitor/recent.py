"""The last requests of one engine, by ids and counts: which were slow, which hard to draft for?"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from heapq import nlargest, nsmallest
from typing import Any, NamedTuple

KEPT = 512
SHOWN = 20
RECENT_S = 900.0
FEW_STEPS = 4
"""With fewer steps acceptance says nothing."""


class RecentRequest(NamedTuple):
    """One sequence that finished. Its `tokens` came in `steps` steps, the first ones after `first_token_us`,
    the last ones after `total_us` from the replica's receipt on."""

    request: str
    tenant: str
    segment: str
    version: str
    at_ms: int
    prompt_tokens: int
    tokens: int
    steps: int
    first_token_us: int
    total_us: int


class RecentRequests:
    """Keeps the last `KEPT`, and shows those of the last quarter of an hour. Thread-safe, no I/O."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: deque[RecentRequest] = deque(maxlen=KEPT)

    def add(self, request: RecentRequest) -> None:
        """One more."""
        with self._lock:
            self._kept.append(request)

    def forget(self, tenant: str) -> None:
        """Forget a tenant's. Idempotent."""
        with self._lock:
            self._kept = deque((one for one in self._kept if one.tenant != tenant), KEPT)

    def notable(self) -> dict[str, list[dict[str, Any]]]:
        """The `slowest` and the `least_accepted`, as plain data."""
        since_ms = 1000 * (self._clock() - RECENT_S)
        with self._lock:
            recent = [one for one in self._kept if one.at_ms >= since_ms]
        return {name: [one._asdict() for one in found] for name, found in most_notable(recent).items()}


def most_notable(requests: Iterable[RecentRequest]) -> dict[str, list[RecentRequest]]:
    """Of all these the `SHOWN` that took longest, and those with the fewest tokens a step."""
    found = list(requests)
    enough = (one for one in found if one.steps >= FEW_STEPS)
    return {
        "slowest": nlargest(SHOWN, found, lambda one: one.total_us),
        "least_accepted": nsmallest(SHOWN, enough, lambda one: one.tokens / one.steps),
    }
