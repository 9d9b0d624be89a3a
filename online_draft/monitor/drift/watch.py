"""Watches all segments of a target for drift."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import redis

from online_draft.errors import StoreError
from online_draft.monitor.drift.config import DriftConfig
from online_draft.monitor.drift.samples import read_drift_samples, read_drift_segments
from online_draft.monitor.drift.segment import SegmentDrift
from online_draft.monitor.drift.state import DriftState, publish_drift_states, read_drift_states
from online_draft.store import RedisKeys

logger = logging.getLogger(__name__)


class DriftWatch:
    """Reads new samples, says in Redis what they mean. For one thread.

    Keeps nothing that Redis doesn't say: after a restart it reads the samples again and finds the same
    changes at the same ones, so an alarm goes on and isn't announced anew.
    """

    def __init__(
        self, client: redis.Redis, keys: RedisKeys, target: str, config: DriftConfig | None = None
    ) -> None:
        """`target` is the target's fingerprint."""
        self._client = client
        self._keys = keys
        self._target = target
        self._config = config or DriftConfig()
        self._segments: dict[str, SegmentDrift] = {}
        self._read: dict[str, str] = {}
        self._due_s = float("-inf")
        self._healthy = True
        self._states: tuple[DriftState, ...] = ()
        self._announced: set[tuple[str, int | None]] | None = None

    @property
    def states(self) -> Sequence[DriftState]:
        """As of the last look."""
        return self._states

    def tick(self, now_s: float) -> tuple[DriftState, ...]:
        """Look if it is time; the states of the segments whose alarm was raised just now.

        `now_s` is Unix time. Blocks for Redis; never raises when it is away.
        """
        if now_s < self._due_s and self._due_s - now_s <= self._config.every_s:
            return ()
        self._due_s = now_s + self._config.every_s
        try:
            if self._announced is None:
                self._announced = _alarms(read_drift_states(self._client, self._keys, self._target).values())
            self._look(int(now_s * 1000))
            publish_drift_states(self._client, self._keys, self._target, self._states)
            self._healthy = True
        except StoreError as error:
            if self._healthy:
                logger.warning("drift can't be watched: %s", error)
            self._healthy = False
            return ()
        known, self._announced = self._announced, _alarms(self._states)
        news = self._announced - known
        raised = tuple(state for state in self._states if (state.segment, state.alarm_ms) in news)
        for state in raised:
            logger.warning("drift acceptance of segment %s fell: %s", state.segment, dict(state.figures))
        return raised

    def _look(self, now_ms: int) -> None:
        names = read_drift_segments(self._client, self._keys, self._target)
        for name in names:
            self._advance(name)
        for gone in self._segments.keys() - set(names):
            del self._segments[gone], self._read[gone]
        self._states = tuple(self._segments[name].state(now_ms) for name in sorted(names))

    def _advance(self, name: str) -> None:
        drift = self._segments.setdefault(name, SegmentDrift(name, self._config))
        after = self._read.setdefault(name, "")
        for entry, sample in read_drift_samples(self._client, self._keys, self._target, name, after):
            if sample is not None:
                drift.update(int(entry.partition("-")[0]), sample)
            self._read[name] = entry


def _alarms(states: Iterable[DriftState]) -> set[tuple[str, int | None]]:
    return {(state.segment, state.alarm_ms) for state in states if state.alarm}
