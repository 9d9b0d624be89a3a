from __future__ import annotations

from typing import Any

import redis

from online_draft.learner.alarms import DriftAlarms
from online_draft.monitor.drift.state import DriftState, publish_drift_states
from online_draft.store import RedisKeys

KEYS = RedisKeys()


class FakeRedis:
    def __init__(self) -> None:
        self.value: bytes | None = None
        self.down = False

    def set(self, _key: str, value: bytes, ex: int) -> None:
        self.value = value

    def get(self, _key: str) -> bytes | None:
        if self.down:
            raise redis.ConnectionError("gone")
        return self.value


def test_each_alarm_is_heard_once_and_redis_away_is_none() -> None:
    client: Any = FakeRedis()
    now = [0.0]
    alarms = DriftAlarms(client, KEYS, "t", lambda: now[0])

    def hear(*states: DriftState) -> tuple[str, ...]:
        publish_drift_states(client, KEYS, "t", states)
        now[0] += 1.5
        return alarms.new()

    def state(segment: str, alarm_ms: int | None) -> DriftState:
        return DriftState(segment, alarm_ms is not None, "unknown", 1, alarm_ms, {})

    assert alarms.new() == ()
    assert hear(state("sql", 5), state("story", None)) == ("sql",)
    assert alarms.segments == ("sql",)
    assert hear(state("sql", 5), state("story", 6)) == ("story",)
    assert hear(state("sql", 9), state("story", 6)) == ("sql",)
    client.down = True
    now[0] += 1.5
    assert alarms.new() == () and alarms.segments == ("sql", "story")
    client.down = False
    assert hear(state("sql", None), state("story", None)) == ()
    assert alarms.segments == ()


def test_it_does_not_look_more_than_once_a_second() -> None:
    client: Any = FakeRedis()
    now = [0.0]
    alarms = DriftAlarms(client, KEYS, "t", lambda: now[0])
    assert alarms.new() == ()
    publish_drift_states(client, KEYS, "t", [DriftState("sql", True, "stale", 1, 1, {})])
    now[0] += 0.5
    assert alarms.new() == ()
    now[0] += 0.6
    assert alarms.new() == ("sql",)
