"""`/admin/api`: status, drafter versions, adapters, decisions. Every route asks for the admin key.

Decisions take an optional JSON body `{"reason": …, "expected_seq": …}`; 409 when somebody else decided
since `expected_seq`, or when the ladder doesn't allow the decision now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from online_draft.errors import ArtifactError, ConfigError, JournalError, LostRaceError, StoreError
from online_draft.registry.journal import Decision, DecisionKind
from online_draft.serve.admin.adapters import AdapterDesk
from online_draft.serve.admin.auth import AdminAuth
from online_draft.serve.admin.buffer_routes import build_buffer_router
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.details_routes import build_details_router
from online_draft.serve.admin.drift_history import build_drift_history_router
from online_draft.serve.admin.drift_routes import build_drift_router
from online_draft.serve.admin.journal_routes import build_journal_router
from online_draft.serve.admin.learner_history import build_learner_history_router
from online_draft.serve.admin.recent_routes import build_recent_router
from online_draft.serve.admin.replica_routes import build_replica_router
from online_draft.serve.admin.series_routes import build_series_router
from online_draft.serve.admin.target_routes import build_target_router
from online_draft.serve.api.backend import Backend
from online_draft.serve.api.errors import ApiError
from online_draft.serve.api.model import Model
from online_draft.serve.dashboard.events import build_events_router
from online_draft.serve.dashboard.routes import build_dashboard_router


class ModelReply(BaseModel):
    """A model of the service: what clients call it, and the fingerprint of its target."""

    name: str
    aliases: tuple[str, ...]
    fingerprint: str


class ModelsReply(BaseModel):
    """All models, the default one first. `?model=NAME` on any route of the admin API chooses one."""

    models: list[ModelReply]


class DecisionBody(BaseModel):
    """Why, and on which state of the journal."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(max_length=500)] = "by hand"
    expected_seq: Annotated[int, Field(ge=0)] | None = None


class SpeculationBody(DecisionBody):
    """`auto`: as much as pays; `off`: none."""

    mode: Literal["auto", "off"]


class SpeculationReply(BaseModel):
    """As decided."""

    mode: Literal["auto", "off"]


def build_admin_router(
    desk: AdminDesk,
    backend: Backend,
    admin_key: str,
    admin_name: Callable[[str], str | None] = lambda secret: None,
    admins: Callable[[], Mapping[str, str]] = dict,
    models: Sequence[Model] = (),
) -> APIRouter:
    """The admin routes and the page. `admin_name` knows further admins by their secrets, `admins` their names
    by the secrets' digests. `models` are all that the service has. An empty key would lock everybody out, so
    ConfigError."""
    auth = AdminAuth(admin_key, admin_name, admins)
    who = Depends(auth.check)
    router = APIRouter(prefix="/admin/api", dependencies=[who])
    for build in (
        build_series_router,
        build_drift_router,
        build_drift_history_router,
        build_buffer_router,
        build_replica_router,
        build_journal_router,
        build_recent_router,
        build_details_router,
        build_learner_history_router,
    ):
        router.include_router(build(desk))
    router.include_router(build_events_router(desk, auth, lambda: getattr(backend, "ending", False) is True))
    router.include_router(build_target_router(desk, backend, auth))
    adapters = AdapterDesk(desk)

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

    @router.get("/models")
    def list_models() -> ModelsReply:
        return ModelsReply(models=[ModelReply(**asdict(model)) for model in models])

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

    @router.get("/speculation")
    def speculation() -> SpeculationReply:
        """Whether requests are drafted for."""
        return SpeculationReply(mode="off" if _reading(desk.state).speculation_off else "auto")

    @router.post("/speculation")
    def switch_speculation(body: SpeculationBody, actor: str = who) -> dict[str, Any]:
        """Have all replicas draft as much as pays, or decode plainly, from their next requests on."""
        return decide(actor, "speculation_off" if body.mode == "off" else "speculation_on", None, body)

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

    whole = APIRouter()
    whole.include_router(router)
    whole.include_router(build_dashboard_router(auth))
    return whole


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
