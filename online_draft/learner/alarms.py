"""Drift alarms, as the learner hears them. Redis away: no alarm."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import redis

from online_draft.errors import StoreError
from online_draft.monitor.drift.state import alarmed, read_drift_states
from online_draft.store import RedisKeys

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class DriftAlarms:
    """Looks at one target's drift states once a second. Not thread-safe; blocks on Redis only."""

    def __init__(
        self,
        client: redis.Redis,
        keys: RedisKeys,
        target: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.segments: tuple[str, ...] = ()
        """Those under an alarm at the last look."""
        self._client = client
        self._keys = keys
        self._target = target
        self._clock = clock
        self._look_at = float("-inf")
        self._heard: dict[str, int] = {}

    def new(self) -> tuple[str, ...]:
        """Segments whose alarm was raised since the last call."""
        if self._clock() < self._look_at:
            return ()
        self._look_at = self._clock() + LOOK_EVERY_S
        try:
            states = read_drift_states(self._client, self._keys, self._target)
        except StoreError as error:
            logger.debug("drift alarms can't be read: %s", error)
            return ()
        self.segments = alarmed(states)
        raised = {name: states[name].alarm_ms or 0 for name in self.segments}
        new = tuple(name for name, at_ms in raised.items() if self._heard.get(name) != at_ms)
        self._heard.update(raised)
        return new
