"""What the replicas say that they draft with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from online_draft.monitor.load import read_loads
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import unpack


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica's versions, why it can't use others, and when it began to follow the journal."""

    version: str | None
    second: str | None
    started_ms: int
    unusable: Mapping[str, str] = field(default_factory=dict)


def read_replicas(client: redis.Redis, keys: RedisKeys, now_ms: int) -> dict[str, ReplicaView]:
    """Replicas that are alive, by id. StoreError when Redis can't be used."""
    names = sorted(read_loads(client, keys, now_ms))
    if not names:
        return {}
    with redis_errors("read replicas"):
        raw = cast(list[bytes | None], client.mget([keys.status(name) for name in names]))
    views = {}
    for name, data in zip(names, raw, strict=True):
        if data is not None:
            views[name] = _view(unpack(data, f"status of {name}"))
    return views


def _view(status: Any) -> ReplicaView:
    said: Mapping[str, Any] = status if isinstance(status, Mapping) else {}
    unusable, started_ms = said.get("unusable"), said.get("started_at_ms")
    return ReplicaView(
        said.get("drafter_version"),
        said.get("second_version"),
        started_ms if isinstance(started_ms, int) else 0,
        unusable if isinstance(unusable, Mapping) else {},
    )
