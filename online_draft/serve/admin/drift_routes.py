"""`/admin/api/drift`: which segments drift, and why."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from pydantic import BaseModel, Field

from online_draft.errors import StoreError
from online_draft.monitor.drift.state import read_drift_states
from online_draft.monitor.drift.verdict import VerdictKind
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import ApiError


class ShiftReply(BaseModel):
    """A mean over replayed records before and after the change; `z` is the difference in standard errors."""

    before: float
    after: float
    samples_before: int
    samples_after: int
    z: float


class DriftReply(BaseModel):
    """One segment. `figures` are of an alarm: drift acceptance of `champion`, `baseline` and `same_version`
    (versions on both sides of the change), the target's `entropy` in nats."""

    segment: str
    alarm: bool
    verdict: VerdictKind
    at_ms: int | None = Field(description="time of the last sample, Unix ms")
    alarm_ms: int | None = Field(description="when the alarm was raised, Unix ms")
    figures: dict[str, ShiftReply]


class DriftsReply(BaseModel):
    """All segments of the target that control watches; empty while it doesn't."""

    segments: list[DriftReply]


def build_drift_router(desk: AdminDesk) -> APIRouter:
    """The route; whoever includes it asks for the admin key."""
    router = APIRouter()

    @router.get("/drift")
    def drift() -> DriftsReply:
        """Alarm and verdict of each segment."""
        try:
            return DriftsReply(segments=drifts(desk))
        except StoreError as error:
            raise ApiError(503, str(error), code="drift_unavailable", headers={"Retry-After": "1"}) from error

    return router


def drifts(desk: AdminDesk) -> list[DriftReply]:
    """The state of each segment. Blocks; StoreError when Redis can't be used."""
    states = read_drift_states(*desk.redis_client(), desk.registry.target)
    return [DriftReply(**asdict(state)) for state in states.values()]
