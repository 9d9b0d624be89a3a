"""`/admin/api/learner/history`: what the learner did, as control noted it."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from online_draft.errors import StoreError
from online_draft.monitor.learner_history import RESOLUTIONS, read_learner_history
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import ApiError

_DEFAULT_RANGE_S = 900
_SLACK_S = 60
"""Clocks differ: who asks for three hours gets the finer readings."""


class ReadingReply(BaseModel):
    """The learner's counters at a time: `state_ms` are milliseconds in each state since it was started.
    `steps`, `tokens` and `looks` can fall, too, when it begins anew. `loss` is the last one, smoothed; the τ
    are those of the last look at held-out records."""

    at: int = Field(description="Unix seconds")
    state: str
    state_ms: dict[str, int]
    steps: int
    tokens: int
    looks: int
    loss: float | None
    tau_candidate: float | None
    tau_champion: float | None


class LearnerHistoryReply(BaseModel):
    """Readings of [start, end), oldest first, one in `resolution` seconds."""

    start: int
    end: int
    resolution: int
    readings: list[ReadingReply]


def build_learner_history_router(desk: AdminDesk) -> APIRouter:
    """The route; whoever includes it asks for the admin key."""
    router = APIRouter()

    @router.get("/learner/history")
    def history(
        start: Annotated[int | None, Query(ge=0, description="Unix seconds; default: 900 before end")] = None,
        end: Annotated[int | None, Query(ge=0, description="Unix seconds; default: now")] = None,
        resolution: Annotated[
            int | None,
            Query(description="10 or 600 seconds; default: the finer one that is kept for so long"),
        ] = None,
    ) -> LearnerHistoryReply:
        """The learner's states, loss and held-out τ: every 10 s for 3 hours, every 10 minutes for 30 days."""
        now = int(time.time())
        last = now + 1 if end is None else end
        first = max(0, last - _DEFAULT_RANGE_S) if start is None else start
        if first >= last:
            raise ApiError(
                400, f"start: must be before end, got {first} and {last}", "start", "invalid_value"
            )
        fine, coarse = RESOLUTIONS
        seconds = resolution or (fine if now - first <= fine * RESOLUTIONS[fine] + _SLACK_S else coarse)
        if seconds not in RESOLUTIONS:
            raise ApiError(400, f"resolution: must be {fine} or {coarse}", "resolution", "invalid_value")
        try:
            found = read_learner_history(*desk.redis_client(), first, last, seconds)
        except StoreError as error:
            headers = {"Retry-After": "1"}
            raise ApiError(503, str(error), code="history_unavailable", headers=headers) from error
        readings = [
            ReadingReply(
                at=one.at_s,
                state=one.state,
                state_ms=dict(one.state_ms),
                steps=one.steps,
                tokens=one.tokens,
                looks=one.looks,
                loss=one.loss,
                tau_candidate=one.tau_candidate,
                tau_champion=one.tau_champion,
            )
            for one in found
        ]
        return LearnerHistoryReply(start=first, end=last, resolution=seconds, readings=readings)

    return router
