"""Roll-ups: whatever is repeated, late, restarted or forgotten, every resolution has the same sums."""

from __future__ import annotations

import contextlib
import copy
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from online_draft.core import SpeculationCounts
from online_draft.errors import ConfigError, StoreError
from online_draft.monitor.counts import OTHER_SEGMENTS
from online_draft.monitor.drift.samples import DriftSample, Hits
from online_draft.monitor.rollups.board import OTHER_VERSIONS, RollupBoard
from online_draft.monitor.rollups.drift_counts import DriftCounts
from online_draft.monitor.rollups.histogram import BOUNDS_US, place
from online_draft.monitor.rollups.publisher import RollupPublisher
from online_draft.monitor.rollups.reader import read_rollup
from online_draft.monitor.rollups.resolutions import RESOLUTIONS, finest_since
from online_draft.monitor.rollups.traffic_counts import LIVE, Cell, TrafficCounts
from online_draft.monitor.rollups.traffic_rows import (
    DEPTHS,
    DRIFT_DEPTHS,
    from_row,
    pack_rows,
    to_row,
    unpack_rows,
)
from online_draft.store import RedisKeys

KEYS = RedisKeys("test")
NOON = 1_800_000_000
SAMPLE = DriftSample("r", "v1", Hits((3, 1), (4, 4)), Hits((2, 0), (4, 4)), 1_250_000, 2)


class FakeRedis:
    """Strings, hashes and pipelines. `fail` = "before": the next pipeline isn't run; "after": it is, and
    nobody learns of it."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.expiry: dict[str, int] = {}
        self.run_id = "1"
        self.fail = ""
        self.writes = 0

    def set(self, key: str, value: str, nx: bool = False) -> None:
        assert nx
        self.data.setdefault(key, value.encode())

    def get(self, key: str) -> Any:
        return self.data.get(key)

    def info(self, section: str) -> dict[str, object]:
        return {"run_id": self.run_id}

    def pipeline(self, transaction: bool) -> FakePipeline:
        return FakePipeline(self)


class FakePipeline:
    def __init__(self, server: FakeRedis) -> None:
        self.server = server
        self.commands: list[Any] = []

    def hset(self, key: str, mapping: dict[bytes, bytes]) -> None:
        self.commands.append(lambda: self.server.data.setdefault(key, {}).update(mapping))

    def expireat(self, key: str, at: int) -> None:
        self.commands.append(lambda: self.server.expiry.update({key: at}))

    def hgetall(self, key: str) -> None:
        self.commands.append(lambda: self.server.data.get(key, {}))

    def execute(self) -> list[Any]:
        failure, self.server.fail = self.server.fail, ""
        if failure == "before":
            raise redis.ConnectionError("gone")
        self.server.writes += 1
        replies = [command() for command in self.commands]
        if failure == "after":
            raise redis.TimeoutError("no reply")
        return replies


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Writer:
    """A process: its board and publisher."""

    def __init__(self, server: FakeRedis, clock: Clock, name: str = "replica") -> None:
        self.board = RollupBoard(name, clock)
        self._publisher = RollupPublisher(server, KEYS, self.board)  # type: ignore[arg-type]

    def publish(self) -> None:
        self._publisher.publish()

    def try_to_publish(self) -> None:
        with contextlib.suppress(redis.RedisError):
            self._publisher.publish()


def cells_in(data: bytes) -> dict[Cell, TrafficCounts]:
    return {cell: from_row(row) for cell, row in unpack_rows(data)}


def counts(requests: int = 1) -> TrafficCounts:
    speculation = SpeculationCounts(2, 5, 16, [2, 1], [2, 1], 3, [0, 1])
    drift = DriftCounts.of(SAMPLE)
    return TrafficCounts(requests, 7, 5, speculation, [0, 1], [0, 0, 2], {"failed": 1}, drift)


def drift_of(n: int) -> DriftCounts:
    """Of so many replays of the one sample."""
    hits, tried, baseline_hits = [3 * n, n], [4 * n, 4 * n], [2 * n, 0]
    return DriftCounts(n, 16 * n, 32 * n, 64 * n, 1_250_000 * n, 2 * n, hits, tried, baseline_hits, [*tried])


def read(server: FakeRedis, seconds: int, now: float, **more: Any) -> Any:
    return read_rollup(server, KEYS, int(now) - 2000, int(now) + 1, seconds, **more)  # type: ignore[arg-type]


def requests_by_bucket(server: FakeRedis, seconds: int, now: float) -> Counter[tuple[str, str, int]]:
    series = read(server, seconds, now, by=("segment", "version"))
    for buckets in series.values():
        for bucket in buckets.values():
            assert bucket.drift == drift_of(bucket.requests), "one replayed record comes with each request"
    return Counter(
        {
            (*group, start): bucket.requests
            for group, buckets in series.items()
            for start, bucket in buckets.items()
        }
    )


def events_by_bucket(events: Any, seconds: int) -> Counter[tuple[str, str, int]]:
    found: Counter[tuple[str, str, int]] = Counter()
    for at, segment, version in events:
        found[segment, version, at // seconds * seconds] += 1
    return found


ACTIONS = st.one_of(
    st.tuples(
        st.just("add"), st.integers(0, 2), st.integers(0, 300), st.sampled_from("ab"), st.sampled_from("uv")
    ),
    st.tuples(st.just("publish"), st.integers(0, 2), st.sampled_from(["", "before", "after"])),
    st.tuples(st.just("restart writer"), st.integers(0, 2)),
    st.tuples(st.sampled_from(["wipe redis", "restart redis with old data"])),
    st.tuples(st.just("wait"), st.integers(1, 40)),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(ACTIONS, max_size=60))
def test_any_interleaving_gives_the_same_sums_at_every_resolution(actions: list[Any]) -> None:
    server, clock = FakeRedis(), Clock()
    writers = [Writer(server, clock) for _ in range(3)]
    living: list[list[Any]] = [[], [], []]
    dead: list[Any] = []
    for action, *details in actions:
        if action == "add":
            which, late, segment, version = details
            at = int(clock.now) - late
            writers[which].board.add(at, segment, version, counts())
            living[which].append((at, segment, version))
        elif action == "publish":
            server.fail = details[1]
            writers[details[0]].try_to_publish()
            server.fail = ""
        elif action == "restart writer":
            which = details[0]
            writers[which].publish()
            writers[which] = Writer(server, clock)
            dead += living[which]
            living[which] = []
        elif action == "wipe redis":
            server.data.clear()
            dead.clear()
        elif action == "restart redis with old data":
            saved = copy.deepcopy(server.data)
            for which in range(3):
                writers[which].board.add(int(clock.now), "a", "u", counts())
                living[which].append((int(clock.now), "a", "u"))
                writers[which].publish()
            server.data, server.run_id = saved, server.run_id + "1"
        else:
            clock.now += min(details[0], NOON + 550 - clock.now)
    for writer in writers:
        writer.publish()
    events = [*dead, *living[0], *living[1], *living[2]]
    for resolution in RESOLUTIONS:
        seen = requests_by_bucket(server, resolution.seconds, clock.now)
        assert seen == events_by_bucket(events, resolution.seconds)


def test_all_that_is_counted_survives_the_way() -> None:
    server, clock = FakeRedis(), Clock()
    first, second = Writer(server, clock, "one"), Writer(server, clock, "two")
    for writer in (first, second):
        writer.board.finished("sql", "v1", SpeculationCounts(2, 5, 16, [2, 1], [2, 1], 3, [0, 1]), 7)
        writer.board.speculated("sql", None, SpeculationCounts(1, 1))
        writer.board.tokens("sql", 3, True, 1)
        writer.board.tokens("sql", 2, False, 2)
        writer.board.error("sql", "failed")
        writer.publish()
    for resolution in RESOLUTIONS:
        start = resolution.start(NOON)
        series = read(server, resolution.seconds, NOON, by=("version",))
        assert series["v1",] == {
            start: TrafficCounts(2, 14, 0, SpeculationCounts(4, 10, 32, [4, 2], [4, 2], 6, [0, 2]))
        }
        assert series["none",] == {start: TrafficCounts(speculation=SpeculationCounts(2, 2))}
        assert series[LIVE,] == {
            start: TrafficCounts(0, 0, 10, SpeculationCounts(), [0, 2], [0, 0, 2], {"failed": 2})
        }


def test_a_writer_that_dies_unheard_leaves_all_resolutions_alike() -> None:
    server, clock = FakeRedis(), Clock()
    writer = Writer(server, clock)
    writer.board.add(NOON, "sql", "v1", counts())
    writer.publish()
    writer.board.add(NOON, "sql", "v1", counts())
    Writer(server, clock).publish()
    for resolution in RESOLUTIONS:
        assert sum(requests_by_bucket(server, resolution.seconds, NOON).values()) == 1


def test_readers_choose_segments_versions_and_replicas() -> None:
    server, clock = FakeRedis(), Clock()
    for name in ("one", "two"):
        writer = Writer(server, clock, name)
        writer.board.add(NOON, "sql", "v1", counts())
        writer.board.add(NOON - 5, "sql", "v2", counts(2))
        writer.board.add(NOON, "python", "v1", counts(4))
        writer.publish()

    def total(**more: Any) -> int:
        return sum(
            bucket.requests for group in read(server, 1, NOON, **more).values() for bucket in group.values()
        )

    assert total() == 14
    assert total(segment="sql") == 6
    assert total(segment="sql", version="v2") == 4
    assert total(replica="two") == 7
    assert set(read(server, 1, NOON, by=("replica", "segment"))) == {
        ("one", "sql"), ("one", "python"), ("two", "sql"), ("two", "python"),
    }  # fmt: skip
    assert read_rollup(server, KEYS, NOON, NOON + 1, 1, segment="sql")[()].keys() == {NOON}  # type: ignore[arg-type]


def test_more_than_one_transactions_buckets_are_all_told_again() -> None:
    server, clock = FakeRedis(), Clock()
    writer = Writer(server, clock)
    for late in range(600):
        writer.board.add(NOON - late, "sql", "v1", counts())
    writer.publish()
    server.data.clear()
    writer.publish()
    for resolution in RESOLUTIONS:
        assert sum(requests_by_bucket(server, resolution.seconds, NOON).values()) == 600


def test_nothing_new_is_not_said_again() -> None:
    server, clock = FakeRedis(), Clock()
    writer = Writer(server, clock)
    writer.board.add(NOON, "sql", "v1", counts())
    writer.publish()
    writes = server.writes
    writer.publish()
    assert server.writes == writes


def test_buckets_end_with_their_retention_in_redis_and_in_the_process() -> None:
    server, clock = FakeRedis(), Clock()
    writer = Writer(server, clock)
    writer.board.add(NOON, "sql", "v1", counts())
    writer.publish()
    assert server.expiry == {
        KEYS.rollup(resolution.seconds, resolution.start(NOON)): resolution.expires(resolution.start(NOON))
        for resolution in RESOLUTIONS
    }
    clock.now = NOON + 4 * 3600
    server.data.clear()
    writer.publish()
    told = {key for key in server.data if key != KEYS.rollup_epoch}
    assert told == {KEYS.rollup(s, NOON // s * s) for s in (60, 600, 3600)}
    writer.board.add(NOON, "sql", "v1", counts())
    writer.publish()
    assert KEYS.rollup(1, NOON) not in server.data
    assert sum(requests_by_bucket(server, 3600, NOON).values()) == 2


def test_a_process_holds_a_bounded_number_of_buckets_of_bounded_size() -> None:
    clock, rng = Clock(), random.Random(1)
    board = RollupBoard("replica", clock)
    for _ in range(3000):
        clock.now += 1
        board.add(clock.now, f"s{rng.randrange(500)}", f"v{rng.randrange(500)}", counts())
        board.tokens(f"s{rng.randrange(500)}", 1, False, 3)
        board.fold()
    packed = board.unsaid()
    assert len(packed) <= sum(resolution.keep_s // resolution.seconds + 1 for resolution in RESOLUTIONS)
    sizes = [len(cells_in(data)) for data in packed.values()]
    assert max(sizes) <= 98
    hours = [cells for name, data in packed.items() if name[0] == 3600 for cells in [cells_in(data)]]
    assert sum(cell.requests for cells in hours for cell in cells.values()) == 3000
    assert any((OTHER_SEGMENTS, LIVE) in cells for cells in hours)


def test_with_many_versions_the_sums_by_segment_stay_exact() -> None:
    server, clock = FakeRedis(), Clock()
    writer = Writer(server, clock)
    for number in range(600):
        writer.board.add(NOON, f"s{number % 20}", f"v{number}", counts())
    writer.publish()
    series = read(server, 3600, NOON, by=("segment",))
    assert [sum(bucket.requests for bucket in series[f"s{n}",].values()) for n in range(20)] == [30] * 20
    assert ("s0", OTHER_VERSIONS) in read(server, 3600, NOON, by=("segment", "version"))


def test_a_segment_long_unused_gives_its_place_to_another() -> None:
    clock = Clock()
    board = RollupBoard("replica", clock)
    for number in range(32):
        board.error(f"s{number}", "failed")
    clock.now += 3599
    board.error("new", "failed")
    clock.now += 2
    board.error("newer", "failed")
    board.fold()
    names = {segment for data in board.unsaid().values() for segment, _ in cells_in(data)}
    assert OTHER_SEGMENTS in names and "new" not in names and "newer" in names


@pytest.mark.parametrize("data", [b"", b"junk", pack_rows({})[:-3]])
def test_what_is_no_rollup_is_a_store_error(data: bytes) -> None:
    with pytest.raises(StoreError, match="roll-up"):
        unpack_rows(data)


@given(
    st.lists(st.integers(0, 2**40), min_size=7, max_size=7),
    st.lists(st.tuples(st.integers(1, 2**33), st.integers(0, 9)), max_size=DEPTHS),
    st.lists(st.integers(0, 300), max_size=len(BOUNDS_US) + 1),
)
def test_rows_hold_counts_of_any_size(totals: list[int], depths: Any, latencies: list[int]) -> None:
    requests, prompt_tokens, tokens, steps, committed, drafted, ngram = totals
    tried, accepted = [tried for tried, _ in depths], [accepted for _, accepted in depths]
    while latencies and latencies[-1] == 0:
        latencies.pop()
    speculation = SpeculationCounts(steps, committed, drafted, tried, accepted, ngram)
    made = TrafficCounts(requests, prompt_tokens, tokens, speculation, latencies, [1], {"cancelled": 3})
    assert from_row(to_row(made)) == made
    cells = {("a", "v"): made, ("b", LIVE): TrafficCounts()}
    assert cells_in(pack_rows({cell: to_row(one) for cell, one in cells.items()})) == cells


def test_what_is_deeper_than_the_rows_counts_at_their_deepest() -> None:
    speculation = SpeculationCounts(1, 41, 40, [1] * 40, [1] * 40)
    kept = from_row(to_row(TrafficCounts(speculation=speculation))).speculation
    assert sum(kept.accepted) == 40 and kept.tried[-2:] == [1, 9] and len(kept.tried) == DEPTHS


def test_drift_is_kept_by_depth_and_apart_from_what_is_served() -> None:
    server, clock = FakeRedis(), Clock()
    learner, replica = Writer(server, clock, "learner"), Writer(server, clock)
    deep = Hits((1,) * 20, (2,) * 20)
    learner.board.replayed("sql", replace(SAMPLE, champion=deep, baseline=Hits()))
    replica.board.tokens("sql", 3, True, 1)
    for writer in (learner, replica):
        writer.publish()
    for resolution in RESOLUTIONS:
        found = read(server, resolution.seconds, NOON, by=("segment", "version"))
        (replayed,), (live,) = found["sql", "v1"].values(), found["sql", LIVE].values()
        assert live.served and not live.drift.samples and not replayed.served
        assert (replayed.drift.hits_squared, replayed.drift.tried_squared) == (400, 1600)
        assert replayed.drift.hits == [1] * (DRIFT_DEPTHS - 1) + [5] and sum(replayed.drift.tried) == 40
        assert replayed.drift.baseline_tried == []


def test_latency_buckets_hold_their_upper_bound() -> None:
    assert [place(bound / 1e6) for bound in BOUNDS_US] == list(range(len(BOUNDS_US)))
    assert place(0.0) == 0 and place(1e4) == len(BOUNDS_US)
    assert sorted(set(BOUNDS_US)) == list(BOUNDS_US)


def test_the_finest_resolution_that_covers_a_range_is_chosen() -> None:
    ranges = {
        900: 1,
        3600: 10,
        3 * 3600: 10,
        86_400: 60,
        7 * 86_400: 600,
        30 * 86_400: 3600,
        99 * 86_400: 3600,
    }
    assert {span: finest_since(NOON - span, NOON).seconds for span in ranges} == ranges


def test_another_resolution_is_refused() -> None:
    with pytest.raises(ConfigError, match="resolution: 7 is not one of 1, 10, 60, 600, 3600"):
        read(FakeRedis(), 7, NOON)
