"""Speculation counts by segment and drafter version, over all replicas.

Each replica publishes its own totals under its own name and readers add them up. Saying a total twice
changes nothing, so counts stay exact over lost replies, and a Redis that restarted learns them again.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from online_draft.core import SCHEMA_VERSION, SpeculationCounts
from online_draft.errors import StoreError
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import pack, unpack

OTHER_SEGMENTS = "(other)"
PLAIN = "none"
"""Stands for the version of requests that no drafter served."""

_MAX_CELLS = 1024


@dataclass(slots=True)
class SegmentCounts:
    """Requests of one segment under one version, with the sum of their speculation counts."""

    requests: int = 0
    speculation: SpeculationCounts = field(default_factory=SpeculationCounts)

    def add(self, other: SegmentCounts) -> None:
        """Add another count to this one."""
        self.requests += other.requests
        self.speculation.add(other.speculation)


class CountsBoard:
    """One process's totals. Thread-safe; `publish` fits a RecordWriter's `publish` hook.

    Clients name segments, so cells are bounded: beyond 1024 new ones count under "(other)".
    """

    def __init__(self, keys: RedisKeys, source: str) -> None:
        self.source = f"{source}-{uuid.uuid4().hex[:8]}"
        self._keys = keys
        self._lock = threading.Lock()
        self._cells: dict[tuple[str, str], SegmentCounts] = {}
        self._news: set[tuple[str, str]] = set()

    def add(self, segment: str, version: str | None, counts: SpeculationCounts) -> None:
        """Count one finished request. No I/O."""
        cell = (segment, version or PLAIN)
        with self._lock:
            if cell not in self._cells and len(self._cells) >= _MAX_CELLS:
                cell = (OTHER_SEGMENTS, version or PLAIN)
            self._cells.setdefault(cell, SegmentCounts()).add(SegmentCounts(1, counts))
            self._news.add(cell)

    def publish(self, pipeline: Any, everything: bool) -> None:
        """Queue the totals that changed, or all, on a Redis pipeline; call again with True if it fails."""
        with self._lock:
            cells = list(self._cells) if everything else list(self._news)
            self._news.clear()
            fields = {pack([self.source, *cell]): _pack_counts(self._cells[cell]) for cell in cells}
        if fields:
            pipeline.hset(self._keys.counts, mapping=fields)


def read_counts(client: redis.Redis, keys: RedisKeys) -> dict[str, dict[str, SegmentCounts]]:
    """Totals of all processes, {segment: {version: counts}}. StoreError when Redis can't be used."""
    with redis_errors("read counts"):
        raw = cast(Mapping[bytes, bytes], cast(Any, client.hgetall(keys.counts)))
    totals: dict[str, dict[str, SegmentCounts]] = {}
    for name, data in raw.items():
        _source, segment, version = _unpack_cell(name)
        cell = totals.setdefault(segment, {}).setdefault(version, SegmentCounts())
        cell.add(_unpack_counts(data))
    return totals


def _pack_counts(cell: SegmentCounts) -> bytes:
    counts = cell.speculation
    return pack(
        [
            SCHEMA_VERSION,
            cell.requests,
            counts.steps,
            counts.committed,
            counts.drafted,
            counts.tried,
            counts.accepted,
            counts.ngram_drafted,
            counts.ngram_accepted,
        ]
    )


def _unpack_counts(data: bytes) -> SegmentCounts:
    raw = unpack(data, "counts")
    # Without the last two: written before there was an n-gram memory.
    if not isinstance(raw, list) or len(raw) not in (7, 9):
        raise StoreError("counts are not readable")
    tried, accepted, ngram_drafted, ngram_accepted = [*raw[5:], 0, []][:4]
    if any(type(value) is not int for value in (*raw[:5], ngram_drafted)):
        raise StoreError("counts are not readable")
    if not isinstance(tried, list) or not isinstance(accepted, list) or len(tried) != len(accepted):
        raise StoreError("counts: tried and accepted must be equally long lists")
    if not isinstance(ngram_accepted, list) or len(ngram_accepted) > len(accepted):
        raise StoreError("counts: ngram_accepted must be a list, not longer than accepted")
    if any(type(value) is not int for value in (*tried, *accepted, *ngram_accepted)):
        raise StoreError("counts: tried and accepted must hold integers")
    steps, committed, drafted = raw[2:5]
    speculation = SpeculationCounts(steps, committed, drafted, tried, accepted, ngram_drafted, ngram_accepted)
    return SegmentCounts(raw[1], speculation)


def _unpack_cell(name: bytes) -> tuple[str, str, str]:
    raw = unpack(name, "counts: cell")
    if not isinstance(raw, list) or len(raw) != 3 or not all(isinstance(part, str) for part in raw):
        raise StoreError("counts: a cell's name is not readable")
    return raw[0], raw[1], raw[2]
