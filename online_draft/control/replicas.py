"""What the replicas say that they draft with, which of them have fallen silent, and which never may serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import redis

from online_draft.monitor.load import read_loads
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import unpack

SILENT_MS = 10_000
"""Who has said nothing for so long is missed."""
FORGOTTEN_MS = 3_600_000
"""Who has said nothing for so long isn't."""


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica's versions, why it can't use others or the journal, when it began to follow that, and up to
    which entry it knows it."""

    version: str | None
    second: str | None
    started_ms: int
    unusable: Mapping[str, str] = field(default_factory=dict)
    journal_error: str = ""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Replicas:
    """Those that are `alive`, by id; when those that are missed were last heard; why nodes were refused."""

    alive: Mapping[str, ReplicaView] = field(default_factory=dict)
    silent: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def read_replicas(client: redis.Redis, keys: RedisKeys, now_ms: int) -> Replicas:
    """All of it. StoreError when Redis can't be used."""
    heard = read_loads(client, replace(keys, load_fresh_ms=FORGOTTEN_MS), now_ms)
    age_ms = {name: now_ms - load.at_ms for name, load in heard.items()}
    names = sorted(name for name, age in age_ms.items() if age <= keys.load_fresh_ms)
    views: dict[str, ReplicaView] = {}
    with redis_errors("read replicas"):
        raw = cast(list[bytes | None], client.mget([keys.status(name) for name in names])) if names else []
        refused = cast(dict[bytes, bytes], cast(Any, client.hgetall(keys.refused)))
    for name, data in zip(names, raw, strict=True):
        if data is not None:
            views[name] = _view(unpack(data, f"status of {name}"))
    silent = {name: heard[name].at_ms for name, age in age_ms.items() if age > SILENT_MS}
    return Replicas(views, _missed(silent, views), _reasons(refused, keys, now_ms))


def _missed(silent: Mapping[str, int], views: Mapping[str, ReplicaView]) -> dict[str, int]:
    """Those whose place no other replica has taken since: each that started later takes one."""
    starts = sorted(view.started_ms for view in views.values())
    missed = {}
    for name, at_ms in sorted(silent.items(), key=lambda item: item[1]):
        later = next((start for start in starts if start > at_ms), None)
        if later is None:
            missed[name] = at_ms
        else:
            starts.remove(later)
    return missed


def _reasons(raw: Mapping[bytes, bytes], keys: RedisKeys, now_ms: int) -> dict[str, str]:
    """Why nodes were refused, by host, as far as they have tried lately."""
    found = {}
    for host, data in raw.items():
        word = unpack(data, "a refusal")
        if isinstance(word, list) and len(word) == 2 and now_ms - int(word[1]) < 1000 * keys.refused_ttl_s:
            found[host.decode()] = str(word[0])
    return found


def _view(status: Any) -> ReplicaView:
    said: Mapping[str, Any] = status if isinstance(status, Mapping) else {}
    unusable, started_ms, seq = (said.get(name) for name in ("unusable", "started_at_ms", "journal_seq"))
    return ReplicaView(
        said.get("drafter_version"),
        said.get("second_version"),
        started_ms if isinstance(started_ms, int) else 0,
        unusable if isinstance(unusable, Mapping) else {},
        str(said.get("journal_error") or ""),
        seq if isinstance(seq, int) else 0,
    )
