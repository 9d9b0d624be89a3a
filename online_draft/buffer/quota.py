"""How many records one tenant may put into the stream, so that none has it to itself."""

from __future__ import annotations

import time
from collections.abc import Callable

_MOST = 4096


class TenantQuota:
    """A bucket of `per_minute` records for each tenant, refilled evenly; 0 is no limit. Not thread-safe."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """What is left of each, and as of when; a tenant that isn't there has a full one."""

    def admit(self, tenant: str) -> bool:
        """Whether one more record of a tenant may go; takes it from the bucket if so."""
        if not self._per_minute:
            return True
        now = self._clock()
        left = self._left(tenant, now)
        if left < 1:
            return False
        self._buckets[tenant] = (left - 1, now)
        if len(self._buckets) > _MOST:
            full = self._per_minute
            self._buckets = {name: it for name, it in self._buckets.items() if self._left(name, now) < full}
        return True

    def _left(self, tenant: str, now: float) -> float:
        left, since = self._buckets.get(tenant, (float(self._per_minute), now))
        return min(self._per_minute, left + (now - since) * self._per_minute / 60)
