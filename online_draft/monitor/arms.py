"""What the arms of a canary or a watch did, over all replicas: counts by version and segment.

As in `monitor.counts` each replica publishes totals under its own name. They begin with the arms: only
requests are counted that started after the replica had both versions, so nothing has to be subtracted and no
reader has to remember anything.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, cast

import redis

from online_draft.core import SpeculationCounts
from online_draft.errors import StoreError
from online_draft.monitor.counts import OTHER_SEGMENTS
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import pack, unpack

_MAX_CELLS = 1024


@dataclass(slots=True)
class ArmCounts:
    """Sums over finished requests: how many, their steps and committed tokens, and the squares and product of
    these two, from which a reader gets the spread between requests."""

    requests: int = 0
    steps: int = 0
    committed: int = 0
    steps_squared: int = 0
    steps_committed: int = 0
    committed_squared: int = 0

    @classmethod
    def of(cls, steps: int, committed: int) -> ArmCounts:
        """One request."""
        return cls(1, steps, committed, steps * steps, steps * committed, committed * committed)

    def add(self, other: ArmCounts) -> None:
        """Add another count to this one."""
        self.requests += other.requests
        self.steps += other.steps
        self.committed += other.committed
        self.steps_squared += other.steps_squared
        self.steps_committed += other.steps_committed
        self.committed_squared += other.committed_squared


class ArmsBoard:
    """One process's totals of the arms that it has now. Thread-safe; `publish` fits a RecordWriter's hook.

    Cells are bounded: beyond 1024 new segments count under "(other)".
    """

    def __init__(self, keys: RedisKeys, source: str) -> None:
        self.source = f"{source}-{uuid.uuid4().hex[:8]}"
        self._keys = keys
        self._lock = threading.Lock()
        self._name: str | None = None
        self._since = 0.0
        self._cells: dict[tuple[str, str], ArmCounts] = {}
        self._news: set[tuple[str, str]] = set()

    def begin(self, name: str | None) -> None:
        """From now on count for these arms (`registry.arms.Arms.name`), or for none. Idempotent."""
        with self._lock:
            if name != self._name:
                self._name = name
                self._since = time.monotonic()
                self._cells.clear()
                self._news.clear()

    def add(self, segment: str, version: str | None, counts: SpeculationCounts, started: float) -> None:
        """Count a finished request that one version drafted for, if it started (`time.monotonic`) with these
        arms. No I/O."""
        if version is None or counts.steps == 0:
            return
        cell = (version, segment)
        with self._lock:
            if self._name is None or started < self._since:
                return
            if cell not in self._cells and len(self._cells) >= _MAX_CELLS:
                cell = (version, OTHER_SEGMENTS)
            self._cells.setdefault(cell, ArmCounts()).add(ArmCounts.of(counts.steps, counts.committed))
            self._news.add(cell)

    def publish(self, pipeline: Any, everything: bool) -> None:
        """Queue the totals that changed, or all, on a Redis pipeline; call again with True if it fails."""
        with self._lock:
            name = self._name
            cells = list(self._cells) if everything else list(self._news)
            self._news.clear()
            fields = {pack([self.source, *cell]): pack(list(astuple(self._cells[cell]))) for cell in cells}
        if name is not None and fields:
            pipeline.hset(self._keys.arms(name), mapping=fields)
            pipeline.expire(self._keys.arms(name), self._keys.arms_ttl_s)


def read_arms(client: redis.Redis, keys: RedisKeys, name: str) -> dict[str, dict[str, ArmCounts]]:
    """Totals of all processes, {version: {segment: counts}}. StoreError when Redis can't be used."""
    with redis_errors("read arms"):
        raw = cast(Mapping[bytes, bytes], cast(Any, client.hgetall(keys.arms(name))))
    totals: dict[str, dict[str, ArmCounts]] = {}
    for cell, data in raw.items():
        _source, version, segment = _unpack(cell, str, 3)
        counts = ArmCounts(*_unpack(data, int, 6))
        totals.setdefault(version, {}).setdefault(segment, ArmCounts()).add(counts)
    return totals


def _unpack(data: bytes, kind: type, length: int) -> list[Any]:
    raw = unpack(data, "arms")
    if not isinstance(raw, list) or len(raw) != length or any(type(value) is not kind for value in raw):
        raise StoreError("counts of the arms are not readable")
    return raw
