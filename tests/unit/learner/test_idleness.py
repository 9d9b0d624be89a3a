from __future__ import annotations

from typing import Any

import pytest
import redis

from online_draft.learner.idle.idleness import Idleness
from online_draft.monitor.load import Load, publish_load
from online_draft.store import RedisKeys


class FakeRedis:
    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.down = False

    def hset(self, key: str, field: str, value: bytes) -> None:
        self.hashes.setdefault(key, {})[field.encode()] = value

    def expire(self, _key: str, _seconds: int) -> None:
        return

    def publish(self, _channel: str, _message: str) -> None:
        return

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        if self.down:
            raise redis.ConnectionError("gone")
        return self.hashes.get(key, {})


class Clock:
    now = 100.0

    def seconds(self) -> float:
        return self.now

    def ms(self) -> int:
        return int(self.now * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client() -> FakeRedis:
    return FakeRedis()


@pytest.fixture
def idleness(clock: Clock, client: FakeRedis) -> Idleness:
    fake: Any = client
    return Idleness(fake, RedisKeys(), 300, now_ms=clock.ms, clock=clock.seconds)


def say(client: FakeRedis, clock: Clock, running: int = 0, replica: str = "r1", realm: str = "") -> None:
    publish_load(client, RedisKeys(realm=realm), replica, Load(running, 0, clock.ms()))


def test_idle_only_after_a_quiet_period(idleness: Idleness, client: FakeRedis, clock: Clock) -> None:
    say(client, clock, running=1)
    assert not idleness.idle() and idleness.reason == "serving"
    say(client, clock)
    assert not idleness.idle() and idleness.reason == "just idle"
    clock.now += 0.31
    assert idleness.idle() and idleness.reason == ""


def test_one_busy_replica_of_two_is_enough(idleness: Idleness, client: FakeRedis, clock: Clock) -> None:
    clock.now += 1
    say(client, clock, 0, "r1")
    say(client, clock, 2, "r2")
    assert not idleness.idle()


def test_no_replica_is_unknown(idleness: Idleness, clock: Clock) -> None:
    clock.now += 10
    assert not idleness.idle()
    assert idleness.reason == "load unknown: no replica has spoken"


def test_load_older_than_two_seconds_is_unknown(idleness: Idleness, client: FakeRedis, clock: Clock) -> None:
    say(client, clock, 0, "silent")
    clock.now += 2.1
    say(client, clock, 0, "well")
    assert not idleness.idle()
    assert idleness.reason == "load unknown: a replica is silent"


def test_a_replica_that_died_is_forgotten(idleness: Idleness, client: FakeRedis, clock: Clock) -> None:
    say(client, clock, 3, "dead")
    clock.now += 10.1
    say(client, clock, 0, "well")
    assert idleness.idle()


def test_redis_away_is_unknown(idleness: Idleness, client: FakeRedis, clock: Clock) -> None:
    say(client, clock)
    clock.now += 1
    client.down = True
    assert not idleness.idle()
    assert idleness.reason.startswith("load unknown: read load:")


def test_a_request_too_short_to_be_seen_was_heard(client: FakeRedis, clock: Clock) -> None:
    fake: Any = client
    rings = [False]
    idleness = Idleness(fake, RedisKeys(), 300, lambda: rings[0], clock.ms, clock.seconds)
    clock.now += 1
    say(client, clock)
    assert idleness.idle()
    rings[0] = True
    assert not idleness.idle() and idleness.reason == "serving"
    rings[0] = False
    clock.now += 0.2
    assert not idleness.idle() and idleness.reason == "just idle"
    clock.now += 0.2
    assert idleness.idle()


def test_says_whether_the_load_is_known(idleness: Idleness, client: FakeRedis, clock: Clock) -> None:
    idleness.idle()
    assert not idleness.known
    say(client, clock, running=1)
    assert not idleness.idle() and idleness.known


def test_other_models_count_while_they_are_on_this_machine(client: FakeRedis, clock: Clock) -> None:
    fake: Any = client
    others = [RedisKeys(realm="b"), RedisKeys(realm="c")]
    idleness = Idleness(
        fake, RedisKeys(), 300, now_ms=clock.ms, clock=clock.seconds, others=others, machine="here"
    )

    def idle(own: int = 0, near: int = 0, far: int = 0) -> bool:
        clock.now += 1
        say(client, clock, own, "here-2-1")
        say(client, clock, near, "here-7", "b")
        say(client, clock, far, "here-2-7", "c")
        return idleness.idle()

    assert idle() and idle(far=3)
    assert not idle(near=1) and idleness.reason == "another model is serving" and idleness.known
    assert not idle(own=1) and idleness.reason == "serving"
    assert idle()
    clock.now += 3
    say(client, clock, 0, "here-2-1")
    assert not idleness.idle() and idleness.reason.startswith("load unknown")
    clock.now += 8  # a model whose replicas are gone is nobody's neighbour
    say(client, clock, 0, "here-2-1")
    assert idleness.idle()
