from __future__ import annotations

import threading
from typing import Any

import pytest

from online_draft.core import SpeculationCounts
from online_draft.errors import StoreError
from online_draft.monitor.counts import OTHER_SEGMENTS, CountsBoard, read_counts
from online_draft.monitor.load import Load, publish_load, read_loads
from online_draft.store import RedisKeys
from online_draft.store.packing import pack

KEYS = RedisKeys("test")


class FakeRedis:
    """Just hashes."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, Any]] = {}
        self.called: list[tuple[str, str]] = []

    def hset(self, key: str, field: Any = None, value: Any = None, mapping: Any = None) -> None:
        self.hashes.setdefault(key, {}).update(mapping or {field.encode(): value})

    def hgetall(self, key: str) -> dict[bytes, Any]:
        return self.hashes.get(key, {})

    def expire(self, key: str, seconds: int) -> None:
        assert seconds > 0

    def publish(self, channel: str, message: str) -> None:
        self.called.append((channel, message))


def read(redis: FakeRedis) -> Any:
    return read_counts(redis, KEYS)  # type: ignore[arg-type]


def counts(steps: int = 2) -> SpeculationCounts:
    made = SpeculationCounts()
    for _ in range(steps):
        made.record(committed=3, drafted=16, accepted_depth=2, drafted_depth=4)
    return made


def test_counts_add_up_over_replicas_segments_versions_and_depths() -> None:
    redis, first, second = FakeRedis(), CountsBoard(KEYS, "replica"), CountsBoard(KEYS, "replica")
    first.add("sql", "v1", counts(2))
    first.add("sql", "v1", counts(1))
    second.add("sql", "v1", counts(5))
    second.add("sql", None, SpeculationCounts(steps=7, committed=7))
    first.publish(redis, False)
    second.publish(redis, False)
    totals = read(redis)
    cell = totals["sql"]["v1"]
    assert cell.requests == 3
    assert cell.speculation == SpeculationCounts(8, 24, 128, [8, 8, 8, 0], [8, 8, 0, 0])
    assert totals["sql"]["none"].speculation == SpeculationCounts(7, 7)


def test_what_was_the_ngram_memorys_is_counted_by_depth_and_older_counts_have_none_of_it() -> None:
    redis, board = FakeRedis(), CountsBoard(KEYS, "replica")
    made = counts(2)
    made.record_ngram(5, [False, True])
    made.record_ngram(3, [True, True, False])
    made.record_ngram(4, [False])
    board.add("sql", "v1", made)
    board.publish(redis, False)
    old = pack([1, 1, 2, 6, 32, [2, 2], [2, 1]])
    redis.hset(KEYS.counts, mapping={pack(["older", "sql", "v1"]): old})
    total = read(redis)["sql"]["v1"].speculation
    assert (total.steps, total.ngram_drafted, total.ngram_accepted) == (4, 12, [1, 2, 0])
    assert total.accepted == [4, 3, 0, 0]


def test_saying_a_total_again_changes_nothing_and_a_forgetful_redis_learns_it_again() -> None:
    redis, board = FakeRedis(), CountsBoard(KEYS, "replica")
    board.add("sql", "v1", counts())
    board.publish(redis, False)
    board.publish(redis, True)
    assert read(redis)["sql"]["v1"].requests == 1
    redis.hashes.clear()
    board.publish(redis, False)
    assert read(redis) == {}
    board.publish(redis, True)
    assert read(redis)["sql"]["v1"].requests == 1


def test_cells_stay_bounded() -> None:
    redis, board = FakeRedis(), CountsBoard(KEYS, "replica")
    for number in range(1100):
        board.add(f"segment-{number}", "v1", counts(1))
    board.publish(redis, True)
    totals = read(redis)
    assert len(totals) == 1025
    assert totals[OTHER_SEGMENTS]["v1"].requests == 76


def test_nothing_is_lost_between_threads() -> None:
    redis, board = FakeRedis(), CountsBoard(KEYS, "replica")

    def work() -> None:
        for _ in range(200):
            board.add("sql", "v1", counts(1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        board.publish(redis, False)
    board.publish(redis, False)
    assert read(redis)["sql"]["v1"].requests == 800


@pytest.mark.parametrize(
    "value",
    [
        b"junk",
        pack([1, 2]),
        pack([1, 1, 1, 1, 1, [1], []]),
        pack([1, 1, 1, 1, 1, ["x"], [1]]),
        pack([1, 1, 1, 1, 1, [1], [1], 0, [1, 1]]),
    ],
)
def test_damaged_counts_are_refused(value: bytes) -> None:
    redis = FakeRedis()
    redis.hset(KEYS.counts, mapping={pack(["r", "sql", "v1"]): value})
    with pytest.raises(StoreError, match="counts"):
        read(redis)


def test_an_old_load_is_unknown() -> None:
    redis: Any = FakeRedis()
    publish_load(redis, KEYS, "one", Load(1, 0, 10_000))
    publish_load(redis, KEYS, "two", Load(0, 0, 7_000))
    assert read_loads(redis, KEYS, now_ms=10_500) == {"one": Load(1, 0, 10_000)}
    assert redis.called == [(KEYS.busy, "one")]
    assert Load(0, 2, 0).busy and not Load(0, 0, 0).busy
