"""`/admin/api/requests/notable`, `/admin/api/speculation/counts`: what replicas tell beside their status."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, cast

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from online_draft.errors import StoreError
from online_draft.monitor.load import read_loads
from online_draft.monitor.recent import RECENT_S, RecentRequest, most_notable
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import ApiError
from online_draft.store import redis_errors
from online_draft.store.packing import unpack

_FORGET_MS = 10_000
"""A replica that was silent for so long is gone."""


class NotableRequest(BaseModel):
    """One choice of a request that finished. `tokens` came in `steps` steps, the first ones after
    `first_token_us`, the last ones after `total_us` from the replica's receipt on."""

    request: str
    replica: str
    tenant: str
    segment: str
    version: str = Field(description="that drafted last; none: plain decoding")
    at_ms: int
    prompt_tokens: int
    tokens: int
    steps: int
    first_token_us: int
    total_us: int


class NotableReply(BaseModel):
    """Of the last 15 minutes, the last 512 requests of each replica: those that took longest, longest first,
    and those of at least 4 steps with the fewest tokens a step, fewest first. Neither tokens nor text."""

    seconds: int = int(RECENT_S)
    slowest: list[NotableRequest]
    least_accepted: list[NotableRequest]


class SourceCounts(BaseModel):
    """Of one source's drafted nodes whose parent was accepted, by tenth of their calibrated probability: how
    many, the sum of these probabilities in millionths, how many were accepted."""

    nodes: list[int]
    promised_micro: list[int]
    accepted: list[int]


class ReplicaCounts(BaseModel):
    """One replica's. Of the last `seconds`, decoding took `spent_us`; without drafts the same tokens would
    have taken `plain_us`, by the measured cost of a plain step (both 0 where no times are measured).
    `sources` are `heads` (the champion's) and `ngram`, since the engine's policy began."""

    replica: str
    version: str | None
    seconds: int
    spent_us: int
    plain_us: int
    sources: dict[str, SourceCounts]


class SpeculationCountsReply(BaseModel):
    """All replicas that work."""

    replicas: list[ReplicaCounts]


def build_details_router(desk: AdminDesk) -> APIRouter:
    """The routes; whoever includes them asks for the admin key."""
    router = APIRouter()

    @router.get("/requests/notable")
    def notable(
        segment: Annotated[str | None, Query(description="of this segment only, as far as shown")] = None,
        replica: Annotated[str | None, Query(description="of this replica only")] = None,
    ) -> NotableReply:
        """The slowest and the least accepted of the newest requests."""
        found: dict[RecentRequest, str] = {}
        for name, told in _details(desk, replica).items():
            for raw in (one for some in told["requests"].values() for one in some):
                if segment in (None, raw["segment"]):
                    found[RecentRequest(**raw)] = name
        shown = {
            kind: [NotableRequest(replica=found[one], **one._asdict()) for one in some]
            for kind, some in most_notable(found).items()
        }
        return NotableReply(slowest=shown["slowest"], least_accepted=shown["least_accepted"])

    @router.get("/speculation/counts")
    def counts(
        replica: Annotated[str | None, Query(description="of this replica only")] = None,
    ) -> SpeculationCountsReply:
        """What drafts promised and gave, and what decoding took against plain decoding."""
        told = _details(desk, replica)
        return SpeculationCountsReply(
            replicas=[
                ReplicaCounts(replica=name, **{field: one[field] for field in _FROM_DETAILS})
                for name, one in told.items()
            ]
        )

    return router


def _details(desk: AdminDesk, replica: str | None) -> dict[str, Mapping[str, Any]]:
    """What each replica told last, by name. Blocks; ApiError when Redis can't be used."""
    try:
        client, keys = desk.redis_client()
        loads = read_loads(client, replace(keys, load_fresh_ms=_FORGET_MS), time.time_ns() // 1_000_000)
        found = {}
        for name in sorted(loads):
            if replica not in (None, name):
                continue
            with redis_errors("read details"):
                raw = cast("bytes | None", client.get(keys.details(name)))
            if raw is not None:
                found[name] = cast(Mapping[str, Any], unpack(raw, f"details of {name}"))
        return found
    except StoreError as error:
        headers = {"Retry-After": "1"}
        raise ApiError(503, str(error), code="replicas_unavailable", headers=headers) from error


_FROM_DETAILS = [name for name in ReplicaCounts.model_fields if name != "replica"]
