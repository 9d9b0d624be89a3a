"""Drift acceptance by record: what the learner's replay says, on its way to who watches for drift.

*Drift acceptance* is how often the heads' likeliest token was right, by depth, measured by replay at a fixed
tree of 16 nodes, so that neither load nor policy moves it. Records must not be ones that the drafter was
trained on. Counts only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, cast

import redis

from online_draft.core import SCHEMA_VERSION
from online_draft.errors import StoreError
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import pack, unpack

MAX_SEGMENTS = 64


@dataclass(frozen=True, slots=True)
class Hits:
    """`tried[k]` looks at the likeliest token of depth k + 1, `hits[k]` of which were right."""

    hits: tuple[int, ...] = ()
    tried: tuple[int, ...] = ()

    @property
    def rate(self) -> float | None:
        """Over all depths; None without looks."""
        tried = sum(self.tried)
        return sum(self.hits) / tried if tried else None


@dataclass(frozen=True, slots=True)
class DriftSample:
    """One record, replayed with the champion `version` and, if there is one, with the baseline.

    `record` names it, so that a sample that is published twice counts once for each version. `entropy_micro`
    is the sum of the target's entropy in 10⁻⁶ nats over `positions` of its output.
    """

    record: str
    version: str
    champion: Hits
    baseline: Hits = Hits()
    entropy_micro: int = 0
    positions: int = 0

    @property
    def entropy(self) -> float | None:
        """The target's mean entropy in nats; None without positions."""
        return self.entropy_micro / self.positions / 1e6 if self.positions else None


def publish_drift_samples(
    client: redis.Redis, keys: RedisKeys, target: str, segment: str, samples: Sequence[DriftSample]
) -> None:
    """Append samples of one segment, oldest first; the stream keeps the latest `keys.drift_samples_maxlen`.

    Publishing again what may have arrived is fine. StoreError when Redis can't be used.
    """
    if not samples:
        return
    stream, segments = keys.drift_samples(target, segment), keys.drift_segments(target)
    with redis_errors("publish drift samples"):
        pipeline = client.pipeline(transaction=False)
        for sample in samples:
            fields: dict[Any, Any] = {"d": pack([SCHEMA_VERSION, *astuple(sample)])}
            pipeline.xadd(stream, fields, maxlen=keys.drift_samples_maxlen, approximate=True)
        pipeline.expire(stream, keys.drift_samples_ttl_s)
        pipeline.zadd(segments, {segment: int(time.time())})
        pipeline.zremrangebyrank(segments, 0, -MAX_SEGMENTS - 1)
        pipeline.expire(segments, keys.drift_samples_ttl_s)
        pipeline.execute()


def read_drift_segments(client: redis.Redis, keys: RedisKeys, target: str) -> list[str]:
    """The segments with samples, at most the latest 64. StoreError when Redis can't be used."""
    with redis_errors("read drift segments"):
        raw = cast(Any, client.zrange(keys.drift_segments(target), 0, -1))
    return [name.decode() for name in raw]


def read_drift_samples(
    client: redis.Redis, keys: RedisKeys, target: str, segment: str, after: str, count: int = 4096
) -> list[tuple[str, DriftSample | None]]:
    """Samples behind the entry `after` ("" for the first ones) with their entry ids, oldest first.

    An entry id starts with Redis' clock in ms. None stands for a sample that isn't readable. StoreError when
    Redis can't be used.
    """
    with redis_errors("read drift samples"):
        stream = keys.drift_samples(target, segment)
        raw = cast(Any, client.xrange(stream, min=f"({after}" if after else "-", count=count))
    return [(entry.decode(), _unpack(fields)) for entry, fields in raw]


def read_replayed(client: redis.Redis, keys: RedisKeys, target: str, count: int) -> set[tuple[str, str]]:
    """Record and version of the newest `count` samples of each segment. StoreError without Redis."""
    found = set()
    for segment in read_drift_segments(client, keys, target):
        with redis_errors("read drift samples"):
            raw = cast(Any, client.xrevrange(keys.drift_samples(target, segment), count=count))
        samples = [_unpack(fields) for _, fields in raw]
        found |= {(sample.record, sample.version) for sample in samples if sample is not None}
    return found


def _unpack(fields: Any) -> DriftSample | None:
    try:
        raw = unpack(fields.get(b"d", b""), "drift sample")
        schema, record, version, champion, baseline, entropy_micro, positions = cast("list[Any]", raw)
        if schema != SCHEMA_VERSION:
            return None
        return DriftSample(
            str(record), str(version), _hits(champion), _hits(baseline), int(entropy_micro), int(positions)
        )
    except (StoreError, ValueError, TypeError):
        return None


def _hits(raw: Any) -> Hits:
    hits, tried = (tuple(int(value) for value in values) for values in raw)
    if len(hits) != len(tried) or any(not 0 <= hit <= of for hit, of in zip(hits, tried, strict=True)):
        raise ValueError(f"hits {hits} of {tried}")
    return Hits(hits, tried)
