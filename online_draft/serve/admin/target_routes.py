"""`/admin/api/target`: which weights the target has, and how it gets others."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from online_draft.errors import ArtifactError, JournalError, StoreError
from online_draft.registry.target_line import DRAIN_S
from online_draft.serve.admin.auth import AdminAuth
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.backend import Backend
from online_draft.serve.api.errors import ApiError


class UpdateBody(BaseModel):
    """Weights of the same architecture, sizes and tokenizer: a directory or URL that replicas can read."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    reason: Annotated[str, Field(max_length=500)] = "by hand"
    drain_s: Annotated[
        float, Field(ge=0, le=3600, description="answers that have begun may go on for so long; then abort")
    ] = DRAIN_S


class TargetUpdate(BaseModel):
    """An entry of the target's journal; `version` is the fingerprint that came in the place of another."""

    seq: int
    kind: str
    version: str
    actor: str
    reason: str
    numbers: dict[str, Any]
    at_ms: int


class TargetReply(BaseModel):
    """The target as decided. `serving` is what the replica that was asked has (others may still be on their
    way), `update` how far it is. `unproven`: the champion is the former target's."""

    fingerprint: str
    origin: str
    champion: str | None
    unproven: bool
    updates: list[TargetUpdate]
    serving: str | None = None
    update: dict[str, Any] | None = None


def build_target_router(desk: AdminDesk, backend: Backend, auth: AdminAuth) -> APIRouter:
    """Routes below a router that asks for the admin key."""
    router = APIRouter(prefix="/target")
    who = Depends(auth.check)

    @router.get("")
    async def target() -> TargetReply:
        """Fingerprint, updates so far, and what a replica serves."""
        try:
            known = await run_in_threadpool(desk.target)
        except (ArtifactError, JournalError, StoreError) as error:
            raise _unavailable(error) from error
        try:
            replica = await backend.status()
        except Exception as error:
            replica = {"target_update": {"trouble": str(error)}}
        return TargetReply(**known, serving=replica.get("fingerprint"), update=replica.get("target_update"))

    @router.post("/update", status_code=202)
    async def update(body: UpdateBody, actor: str = who) -> TargetUpdate:
        """Check weights and have all replicas, learner and control take them. 202: decided; `GET` tells when
        it is done. 422 names what is wrong with the weights, 409 when somebody else decided meanwhile."""
        try:
            answer = await backend.update_target(body.path, actor, body.reason, body.drain_s)
        except Exception as error:
            raise _unavailable(error) from error
        if "decision" in answer:
            return TargetUpdate(**answer["decision"])
        message, field = str(answer["refused"]), answer["field"]
        if answer["kind"] == "ConfigError":
            raise ApiError(422, message, field, "unusable_target")
        if answer["kind"] == "LostRaceError":
            raise ApiError(409, message, code="lost_race")
        raise ApiError(503, message, code="target_unavailable", headers={"Retry-After": "1"})

    return router


def _unavailable(error: Exception) -> ApiError:
    return ApiError(503, str(error), code="target_unavailable", headers={"Retry-After": "1"})
