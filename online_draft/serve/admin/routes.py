"""`/admin/api`: status, drafter versions, adapters, decisions. Every route asks for the admin key.

Decisions take an optional JSON body `{"reason": …, "expected_seq": …}`; 409 when somebody else decided
since `expected_seq`, or when the ladder doesn't allow the decision now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from secrets import compare_digest
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from online_draft.errors import ArtifactError, ConfigError, JournalError, LostRaceError, StoreError
from online_draft.registry.journal import Decision, DecisionKind
from online_draft.serve.admin.adapters import AdapterDesk
from online_draft.serve.admin.buffer_routes import build_buffer_router
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.drift_routes import build_drift_router
from online_draft.serve.admin.series_routes import build_series_router
from online_draft.serve.api.backend import Backend
from online_draft.serve.api.errors import ApiError

ACTOR = "admin"


class DecisionBody(BaseModel):
    """Why, and on which state of the journal."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(max_length=500)] = "by hand"
    expected_seq: Annotated[int, Field(ge=0)] | None = None


def build_admin_router(
    desk: AdminDesk,
    backend: Backend,
    admin_key: str,
    admin_name: Callable[[str], str | None] = lambda secret: None,
) -> APIRouter:
    """The admin routes. `admin_name` knows further admins by their secrets. An empty key would lock everybody
    out, so ConfigError."""
    if not admin_key:
        raise ConfigError("admin_key", "must not be empty")

    async def check_key(authorization: Annotated[str, Header()] = "") -> str:
        """Who it is, as the journal says it."""
        secret = authorization.removeprefix("Bearer ")
        known = compare_digest(secret.encode("utf-8", "replace"), admin_key.encode())
        name = None if known else admin_name(secret)
        if not known and name is None:
            raise ApiError(
                401, "a valid admin key is needed: Authorization: Bearer KEY", code="invalid_admin_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
        return ACTOR if name is None else f"{ACTOR}:{name}"

    router = APIRouter(prefix="/admin/api", dependencies=[Depends(check_key)])
    router.include_router(build_series_router(desk))
    router.include_router(build_drift_router(desk))
    router.include_router(build_buffer_router(desk))
    adapters = AdapterDesk(desk)
    who = Depends(check_key)

    def decide(
        actor: str, kind: DecisionKind, version: str | None, body: DecisionBody | None
    ) -> dict[str, Any]:
        body = body or DecisionBody()

        def decided() -> Decision:
            if kind == "promote" and version not in desk.registry.list_versions():
                raise ArtifactError(f"there is no drafter version {version}")
            return desk.decide(kind, version, actor, body.reason, body.expected_seq)

        return asdict(_reading(decided))

    @router.get("/status")
    async def status() -> dict[str, Any]:
        try:
            overview = await run_in_threadpool(desk.overview)
        except (JournalError, StoreError) as error:
            overview = {"journal_error": str(error)}
        try:
            overview["replica"] = await backend.status()
        except Exception as error:
            overview["replica"] = {"ready": False, "error": str(error)}
        return overview

    @router.get("/drafters")
    def list_drafters() -> dict[str, Any]:
        return {"drafters": _reading(desk.drafters)}

    @router.get("/drafters/{version}")
    def show_drafter(version: str) -> dict[str, Any]:
        shown: dict[str, Any] = _reading(lambda: desk.drafter(version))
        return shown

    @router.post("/drafters/{version}/promote")
    def promote(version: str, body: DecisionBody | None = None, actor: str = who) -> dict[str, Any]:
        return decide(actor, "promote", version, body)

    @router.post("/drafters/{version}/reject")
    def reject(version: str, body: DecisionBody | None = None, actor: str = who) -> dict[str, Any]:
        return decide(actor, "refuse", version, body)

    @router.post("/rollback")
    def roll_back(body: DecisionBody | None = None, actor: str = who) -> dict[str, Any]:
        return decide(actor, "roll_back", None, body)

    @router.post("/pin")
    def pin(body: DecisionBody | None = None, actor: str = who) -> dict[str, Any]:
        return decide(actor, "pin", None, body)

    @router.post("/unpin")
    def unpin(body: DecisionBody | None = None, actor: str = who) -> dict[str, Any]:
        return decide(actor, "unpin", None, body)

    @router.get("/adapters")
    def list_adapters() -> dict[str, Any]:
        return {"adapters": _reading(adapters.adapters)}

    @router.post("/adapters/{adapter}/load")
    def load_adapter(adapter: str, body: DecisionBody | None = None, actor: str = who) -> dict[str, Any]:
        body = body or DecisionBody()
        written = _reading(lambda: adapters.load(adapter, actor, body.reason, body.expected_seq), "adapter")
        return asdict(written)

    # A segment may have slashes.
    @router.post("/adapters/{name:path}/drop")
    def drop_adapter(name: str, body: DecisionBody | None = None, actor: str = who) -> dict[str, Any]:
        body = body or DecisionBody()
        written = _reading(lambda: adapters.drop(name, actor, body.reason, body.expected_seq), "adapter")
        return asdict(written)

    @router.get("/learner")
    def learner() -> dict[str, Any]:
        paused = _reading(desk.state).learner_paused
        return {"paused": paused, "status": _reading(lambda: desk.actor_status("learner"))}

    @router.post("/learner/pause")
    def pause(body: DecisionBody | None = None, actor: str = who) -> dict[str, Any]:
        return decide(actor, "pause", None, body)

    @router.post("/learner/resume")
    def resume(body: DecisionBody | None = None, actor: str = who) -> dict[str, Any]:
        return decide(actor, "resume", None, body)

    return router


def as_admin_error(error: Exception, noun: str = "drafter") -> ApiError:
    """Registry and journal errors as answers to an operator, who may see the reason."""
    if isinstance(error, LostRaceError):
        return ApiError(409, str(error), "expected_seq", "lost_race")
    if isinstance(error, ConfigError):
        return ApiError(409, str(error), error.field, "not_allowed_now")
    if isinstance(error, ArtifactError):
        return ApiError(404, str(error), "version", f"{noun}_not_found")
    return ApiError(503, str(error), code="journal_unavailable", headers={"Retry-After": "1"})


def _reading(read: Callable[[], Any], noun: str = "drafter") -> Any:
    try:
        return read()
    except (ConfigError, ArtifactError, JournalError, StoreError) as error:
        raise as_admin_error(error, noun) from error
