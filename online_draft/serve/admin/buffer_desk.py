"""What an operator sees of the replay buffer, and the erasure of a tenant."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, Literal, cast

from online_draft.buffer.books import read_books, total
from online_draft.buffer.erasures import MARGIN_MS, ErasureLog
from online_draft.buffer.sweeping import sweep
from online_draft.errors import ArtifactError, StoreError
from online_draft.monitor.load import read_loads
from online_draft.registry.adapters import AdapterManifest, AdapterRegistry
from online_draft.registry.manifest import VersionManifest, tenant_mark
from online_draft.serve.admin.desk import AdminDesk
from online_draft.store import redis_errors

WAIT_S = 5.0
"""How long an erasure waits for replicas and learner; they go on without it."""
_LOOK_EVERY_S = 0.1
_LEARNER = "learner"
_FORGET_MS = 10_000
"""A replica that was silent for this long is dead, and its memory with it."""

Settled = Literal["settled", "open", "away"]
"""Of the learner: nothing is left with it or in the store; it has not come to it; it doesn't run."""


class BufferDesk:
    """Every method blocks on the artifact store and Redis; call from a thread. Holds no state of its own."""

    def __init__(self, desk: AdminDesk) -> None:
        self._desk = desk
        self._log = ErasureLog(desk.registry.store)
        self._others = {other.model: BufferDesk(other) for other in desk.others}

    def stats(self) -> dict[str, Any]:
        """The books of writers and reader, integers only. StoreError without Redis or artifact store."""
        client, keys = self._desk.redis_client()
        books = total(read_books(client, keys))
        with redis_errors("measure the stream"):
            entries = int(cast(Any, client.xlen(keys.records)))
        learner = self._desk.actor_status(_LEARNER)
        feed = (learner or {}).get("feed") or {}
        return {
            "writers": {
                **{name: value for name, value in asdict(books).items() if name not in ("at_ms", "closed")},
                "balanced": books.balanced,
            },
            "stream": {"entries": entries, "lag": feed.get("lag")},
            "reader": {**feed["reader"], "lost_in_crash": feed["lost_in_crash"]} if feed else None,
            "reservoirs": {
                "training": feed["training"],
                "held_out": feed["held_out"],
                "duplicate": feed["duplicate"],
                "repetition": feed["repetition"],
                "segments": feed["segments"],
            }
            if feed
            else None,
            "erasures": {"requested": self._log.last(), "settled": (learner or {}).get("erased")},
        }

    def erase(
        self, tenant: str, wait_s: float = WAIT_S, pause: Callable[[float], object] = time.sleep
    ) -> dict[str, Any]:
        """Have a tenant forgotten everywhere; says by whom it is, and what is still open. The report of each
        further model is in `models`, and `complete` is about them, too.

        The request itself is durable at once. Waits up to `wait_s` for those who run, and sweeps the stream
        when the replicas have nothing left to put there. Idempotent: a further call erases what came since,
        and finishes what was open. StoreError when the request can't be written.
        """
        if not self._others:
            return self._erase(tenant, wait_s, pause)
        with ThreadPoolExecutor(max_workers=len(self._others)) as pool:
            others = {
                name: pool.submit(desk.erase, tenant, wait_s, pause) for name, desk in self._others.items()
            }
            report = self._erase(tenant, wait_s, pause)
            report["models"] = {name: other.result() for name, other in others.items()}
        report["complete"] &= all(other["complete"] for other in report["models"].values())
        return report

    def _erase(self, tenant: str, wait_s: float, pause: Callable[[float], object]) -> dict[str, Any]:
        request = self._log.request(tenant)
        waited_until = time.monotonic() + wait_s
        replicas, learner = self._honoured(request.number)
        while time.monotonic() < waited_until and not (all(replicas.values()) and learner != "open"):
            pause(_LOOK_EVERY_S)
            replicas, learner = self._honoured(request.number)
        stream: dict[str, Any]
        try:
            stream = asdict(sweep(*self._desk.redis_client(), tenant))
        except StoreError as error:
            stream = {"error": str(error)}
        registry = self._desk.registry
        adapters = AdapterRegistry(registry.store, registry.target)
        return {
            "request": request.number,
            "tenant": tenant,
            "until_ms": request.until_ms,
            "margin_ms": MARGIN_MS,
            "stream": stream,
            "replicas": replicas,
            "learner": learner,
            "complete": learner == "settled" and all(replicas.values()) and stream.get("unreadable") == 0,
            "versions": _taught(tenant, registry.list_versions(), registry.manifest),
            "adapters": _taught(tenant, adapters.list_adapters(), adapters.manifest),
        }

    def _honoured(self, number: int) -> tuple[dict[str, bool], Settled]:
        """Who has honoured a request: replicas by id, and the learner in what it keeps and has stored."""
        try:
            client, keys = self._desk.redis_client()
            loads = read_loads(client, replace(keys, load_fresh_ms=_FORGET_MS), time.time_ns() // 1_000_000)
            replicas = {}
            for name in loads:
                erasures = (self._desk.actor_status(name) or {}).get("erasures") or {}
                replicas[name] = int(erasures.get("honoured", 0)) >= number
            learner = self._desk.actor_status(_LEARNER)
        except StoreError:
            return {"unknown": False}, "away"
        if learner is None:
            return replicas, "away"
        return replicas, "settled" if int(learner.get("erased") or 0) >= number else "open"


def _taught(
    tenant: str, names: list[str], manifest: Callable[[str], VersionManifest | AdapterManifest]
) -> list[str]:
    """Those of what was published that were trained on records of a tenant, or come from such."""
    mark, found = tenant_mark(tenant), []
    for name in names:
        try:
            if mark in manifest(name).provenance.tenants:
                found.append(name)
        except ArtifactError:
            continue
    return found
