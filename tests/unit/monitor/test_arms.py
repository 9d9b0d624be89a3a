from __future__ import annotations

import time
from typing import Any

import pytest

from online_draft.core import SpeculationCounts
from online_draft.errors import StoreError
from online_draft.monitor.arms import ArmCounts, ArmsBoard, read_arms
from online_draft.monitor.counts import OTHER_SEGMENTS
from online_draft.store import RedisKeys

KEYS = RedisKeys("test")


class FakeRedis:
    """Just hashes."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}

    def hset(self, key: str, mapping: dict[bytes, bytes]) -> None:
        self.hashes.setdefault(key, {}).update(mapping)

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return self.hashes.get(key, {})

    def expire(self, key: str, seconds: int) -> None:
        assert key in self.hashes and seconds > 0


def read(redis: FakeRedis, name: str) -> dict[str, dict[str, ArmCounts]]:
    return read_arms(redis, KEYS, name)  # type: ignore[arg-type]


def board(name: str | None) -> ArmsBoard:
    made = ArmsBoard(KEYS, "replica")
    made.begin(name)
    return made


def add(to: ArmsBoard, version: str | None, steps: int, committed: int, **more: Any) -> None:
    started = more.get("started", time.monotonic())
    to.add(more.get("segment", "sql"), version, SpeculationCounts(steps=steps, committed=committed), started)


def test_arms_add_up_over_replicas_by_version_and_segment() -> None:
    redis, first, second = FakeRedis(), board("3-v2"), board("3-v2")
    add(first, "v1", 10, 30)
    add(first, "v2", 10, 40)
    add(second, "v2", 5, 10)
    add(second, "v2", 1, 1, segment="chat")
    for each in (first, second):
        each.publish(redis, False)
    assert read(redis, "3-v2") == {
        "v1": {"sql": ArmCounts(1, 10, 30, 100, 300, 900)},
        "v2": {"sql": ArmCounts(2, 15, 50, 125, 450, 1700), "chat": ArmCounts.of(1, 1)},
    }
    assert read(redis, "4-v2") == {}


def test_counts_begin_with_the_arms() -> None:
    redis, counted = FakeRedis(), board("3-v2")
    before = time.monotonic()
    add(counted, "v1", 10, 30)
    counted.begin("5-v1")
    add(counted, "v1", 7, 7, started=before)
    add(counted, "v1", 2, 4)
    counted.publish(redis, True)
    assert read(redis, "5-v1") == {"v1": {"sql": ArmCounts.of(2, 4)}}
    counted.begin("5-v1")
    counted.publish(redis, True)
    assert read(redis, "5-v1") == {"v1": {"sql": ArmCounts.of(2, 4)}}


def test_nothing_is_counted_without_arms_without_a_drafter_or_without_steps() -> None:
    redis, none = FakeRedis(), board(None)
    add(none, "v1", 2, 4)
    none.publish(redis, True)
    some = board("3-v2")
    add(some, None, 2, 2)
    add(some, "v1", 0, 0)
    some.publish(redis, True)
    assert redis.hashes == {}


def test_saying_totals_twice_changes_nothing_and_a_lost_redis_learns_them_again() -> None:
    redis, counted = FakeRedis(), board("3-v2")
    add(counted, "v1", 2, 4)
    counted.publish(redis, False)
    counted.publish(redis, True)
    once = read(redis, "3-v2")
    redis.hashes.clear()
    counted.publish(redis, False)
    assert read(redis, "3-v2") == {}
    counted.publish(redis, True)
    assert read(redis, "3-v2") == once == {"v1": {"sql": ArmCounts.of(2, 4)}}


def test_segments_are_bounded() -> None:
    redis, counted = FakeRedis(), board("3-v2")
    for number in range(1030):
        add(counted, "v1", 1, 1, segment=str(number))
    counted.publish(redis, False)
    segments = read(redis, "3-v2")["v1"]
    assert len(segments) == 1025 and segments[OTHER_SEGMENTS].requests == 6


@pytest.mark.parametrize("data", [b"\x00", b"\x93\x01\x02\x03", b"nonsense"])
def test_unreadable_counts_are_an_error(data: bytes) -> None:
    redis, counted = FakeRedis(), board("3-v2")
    add(counted, "v1", 2, 4)
    counted.publish(redis, False)
    (key,) = redis.hashes["test:arms:3-v2"]
    redis.hashes["test:arms:3-v2"][key] = data
    with pytest.raises(StoreError):
        read(redis, "3-v2")
