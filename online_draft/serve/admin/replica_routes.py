"""`/admin/api/replicas`: what each replica says of itself."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from online_draft.errors import StoreError
from online_draft.monitor.load import read_loads
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import ApiError

_FORGET_MS = 10_000
"""A replica that was silent for so long is gone."""


class ReplicaReply(BaseModel):
    """One replica. `at_ms` is when it last told its load; the rest is None until it told its status."""

    replica: str
    running: int = Field(description="sequences under way")
    waiting: int = Field(description="sequences that wait for a place")
    at_ms: int
    drafter_version: str | None = None
    second_version: str | None = Field(None, description="drafts for `second_share` of the sequences")
    second_share: float | None = None
    decided_version: str | None = Field(None, description="the champion, as far as this replica knows")
    ready: bool | None = None
    kernel: str | None = None
    device: str | None = None
    swaps: int | None = Field(None, description="exchanges of the drafter since its start")
    engine_error: str | None = None
    unusable: dict[str, str] = Field({}, description="versions that it can't load, and why")


class ReplicasReply(BaseModel):
    """All replicas that work."""

    replicas: list[ReplicaReply]


def build_replica_router(desk: AdminDesk) -> APIRouter:
    """The route; whoever includes it asks for the admin key."""
    router = APIRouter()

    @router.get("/replicas")
    def list_replicas() -> ReplicasReply:
        """Load, drafter and troubles of each replica."""
        try:
            return ReplicasReply(replicas=replicas(desk))
        except StoreError as error:
            headers = {"Retry-After": "1"}
            raise ApiError(503, str(error), code="replicas_unavailable", headers=headers) from error

    return router


def replicas(desk: AdminDesk) -> list[ReplicaReply]:
    """Replicas by name. Blocks; StoreError when Redis can't be used."""
    client, keys = desk.redis_client()
    loads = read_loads(client, replace(keys, load_fresh_ms=_FORGET_MS), time.time_ns() // 1_000_000)
    shown = []
    for name, load in sorted(loads.items()):
        status: dict[str, Any] = desk.actor_status(name) or {}
        known = {field: status[field] for field in _FROM_STATUS if field in status}
        shown.append(
            ReplicaReply(replica=name, running=load.running, waiting=load.waiting, at_ms=load.at_ms, **known)
        )
    return shown


_FROM_STATUS = [
    name for name in ReplicaReply.model_fields if name not in ("replica", "running", "waiting", "at_ms")
]
