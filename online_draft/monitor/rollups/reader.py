"""Reads roll-ups: the counts of all replicas, summed as the reader asks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, cast

import redis

from online_draft.errors import StoreError
from online_draft.monitor.rollups.resolutions import resolution_of
from online_draft.monitor.rollups.traffic_counts import TrafficCounts
from online_draft.monitor.rollups.traffic_rows import Row, from_row, unpack_rows
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import unpack

Dimension = Literal["segment", "version", "replica"]

Series = dict[tuple[str, ...], dict[int, TrafficCounts]]
"""Group -> start of a bucket -> counts. Buckets in which nothing happened are missing."""

_DIMENSIONS: tuple[Dimension, ...] = ("segment", "version", "replica")
_AT_ONCE = 256


def read_rollup(
    client: redis.Redis,
    keys: RedisKeys,
    start_s: int,
    end_s: int,
    seconds: int,
    *,
    by: Collection[Dimension] = (),
    segment: str | None = None,
    version: str | None = None,
    replica: str | None = None,
) -> Series:
    """Counts of the buckets of `seconds` that overlap [start_s, end_s), grouped by `by` in its order.

    `segment`, `version` and `replica` keep what has that name; None keeps all. ConfigError for a length
    that isn't a resolution's; StoreError when Redis can't be used. Blocks on Redis.
    """
    resolution = resolution_of(seconds)
    starts = range(resolution.start(start_s), end_s, seconds)
    kept = [_DIMENSIONS.index(name) for name in by]
    rows: dict[tuple[str, ...], dict[int, Row]] = {}
    for start, source, packed in _read(client, keys, seconds, starts):
        if replica is not None and source != replica:
            continue
        for (its_segment, its_version), row in unpack_rows(packed):
            if segment not in (None, its_segment) or version not in (None, its_version):
                continue
            names = (its_segment, its_version, source)
            buckets = rows.setdefault(tuple([names[index] for index in kept]), {})
            if start in buckets:
                buckets[start] += row
            else:
                buckets[start] = row.copy()  # else all its bucket's rows would stay in memory
    return {
        group: {start: from_row(row) for start, row in buckets.items()} for group, buckets in rows.items()
    }


def _read(
    client: redis.Redis, keys: RedisKeys, seconds: int, starts: range
) -> Iterator[tuple[int, str, bytes]]:
    """Start, replica and packed counts of every bucket, in order of time."""
    for first in range(0, len(starts), _AT_ONCE):
        some = starts[first : first + _AT_ONCE]
        with redis_errors("read roll-ups"):
            pipeline = client.pipeline(transaction=False)
            for start in some:
                pipeline.hgetall(keys.rollup(seconds, start))
            replies = cast("list[Mapping[bytes, bytes]]", pipeline.execute())
        for start, reply in zip(some, replies, strict=True):
            for name, packed in reply.items():
                yield start, _replica(name), packed


def _replica(name: bytes) -> str:
    raw: Any = unpack(name, "roll-up: source")
    if not isinstance(raw, list) or len(raw) != 2 or not all(isinstance(part, str) for part in raw):
        raise StoreError("roll-up: a source's name is not readable")
    replica: str = raw[0]
    return replica
