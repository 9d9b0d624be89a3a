"""What a month of roll-ups weighs in a real Redis."""

from __future__ import annotations

import random
import time

import pytest

from online_draft.core import SpeculationCounts
from online_draft.monitor.rollups.resolutions import RESOLUTIONS
from online_draft.monitor.rollups.traffic_counts import LIVE, Cell, TrafficCounts
from online_draft.monitor.rollups.traffic_rows import pack_rows, to_row
from online_draft.redis_server import PrivateRedis
from online_draft.store import RedisKeys, connect_redis
from online_draft.store.packing import pack

KEYS = RedisKeys("memory")
SEGMENTS = 20
REPLICAS = 3
HEADS = 6


def busy(rng: random.Random, seconds: int, share: float) -> TrafficCounts:
    """What a segment may have in a bucket: some 25 steps a second, spread latencies."""
    steps = max(1, int(seconds * 25 * share * rng.uniform(0.5, 1.5)))
    tried = [int(steps * 0.8**depth * rng.uniform(0.9, 1.0)) for depth in range(HEADS)]
    accepted = [int(count * rng.uniform(0.5, 0.8)) for count in tried]
    ngram = [int(count * rng.uniform(0.0, 0.3)) for count in accepted]
    drafted = steps * rng.randint(8, 16)
    committed = steps + sum(accepted)
    speculation = SpeculationCounts(steps, committed, drafted, tried, accepted, drafted // 5, ngram)
    return TrafficCounts(max(1, steps // 30), steps * 4, 0, speculation)


def live(rng: random.Random, seconds: int) -> TrafficCounts:
    steps = int(seconds * 25 * rng.uniform(0.5, 1.5))
    gaps, first = [0] * 22, [0] * 26
    for _ in range(min(steps, 200)):
        gaps[min(21, max(4, int(rng.gauss(11, 2.5))))] += max(1, steps // 200)
    for _ in range(max(1, min(steps // 30, 50))):
        first[min(25, max(10, int(rng.gauss(17, 3))))] += max(1, steps // 1500)
    return TrafficCounts(tokens=steps * 3, first_token=first, inter_token=gaps, errors={"cancelled": 1})


def cells_of(rng: random.Random, seconds: int) -> dict[Cell, TrafficCounts]:
    """Every segment busy all the time; in buckets of a minute and more versions follow one another, up to
    the bound of a bucket's cells."""
    cells: dict[Cell, TrafficCounts] = {}
    versions = 1 if seconds < 60 else 3
    for number in range(SEGMENTS):
        cells[f"tenant-{number}:segment", LIVE] = live(rng, seconds)
        for version in range(versions):
            name = f"20261121-{rng.randrange(16**6):06x}-{version}"
            cells[f"tenant-{number}:segment", name] = busy(rng, seconds, 1 / versions)
    return cells


def packed(rng: random.Random, seconds: int) -> bytes:
    return pack_rows({cell: to_row(counts) for cell, counts in cells_of(rng, seconds).items()})


@pytest.mark.slow
def test_30_days_of_20_segments_and_3_replicas_take_less_than_200_mb(redis_server: PrivateRedis) -> None:
    client = connect_redis(redis_server.url)
    empty = client.info("memory")["used_memory"]
    rng, now, buckets = random.Random(0), int(time.time()), 0
    for resolution in RESOLUTIONS:
        alive = resolution.keep_s // resolution.seconds
        first = resolution.start(now) - (alive - 1) * resolution.seconds
        # The counts of one replica in one of eight buckets are made, the others are made of the same ones.
        samples = [packed(rng, resolution.seconds) for _ in range(max(8, alive // 8))]
        pipeline = client.pipeline(transaction=False)
        for start in range(first, first + alive * resolution.seconds, resolution.seconds):
            key = KEYS.rollup(resolution.seconds, start)
            sources = {pack([f"a-rather-long-host-name-{n}-12345", "0a1b2c3d"]): rng.choice(samples)
                       for n in range(REPLICAS)}  # fmt: skip
            pipeline.hset(key, mapping=sources)
            pipeline.expireat(key, resolution.expires(start))
            buckets += 1
        pipeline.execute()
    used = client.info("memory")["used_memory"] - empty
    client.close()
    print(f"{buckets} buckets, {used / 1e6:.1f} MB")
    assert buckets == sum(resolution.keep_s // resolution.seconds for resolution in RESOLUTIONS)
    assert used < 200e6
