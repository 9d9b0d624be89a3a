"""Routes that tell about the service: health, readiness, version, metrics, models."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from online_draft import __version__
from online_draft.serve.api.errors import ApiError
from online_draft.serve.api.jobs import ANYONE, caller_of
from online_draft.serve.api.metrics import ApiMetrics
from online_draft.serve.api.model import Catalogue, Served
from online_draft.serve.api.openapi import errors
from online_draft.serve.api.replies import ModelCard, ModelList, StatusReply, VersionReply

logger = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 5.0

Which = Annotated[str | None, Query(description="of this model only; default: of all")]


def build_probe_router(
    models: Catalogue, metrics: ApiMetrics, system: Callable[[], bytes] | None = None
) -> APIRouter:
    """The routes. `/health` asks whether a replica works, of each model or of the one that is named, `/ready`
    whether it takes new requests, too. `system` gives further metrics as text; it may block."""
    router = APIRouter(tags=["service"])
    created = int(time.time())

    @router.get("/health", responses={200: {"model": StatusReply}, **errors(404, 503)})
    async def health(model: Which = None) -> Response:
        await _probe(models, model)
        return JSONResponse({"status": "ok"})

    @router.get("/ready", responses={200: {"model": StatusReply}, **errors(404, 503)})
    async def ready(model: Which = None) -> Response:
        for name, status in (await _probe(models, model)).items():
            if status.get("draining"):
                raise ApiError(503, f"{name}the replica is shutting down", code="draining")
        return JSONResponse({"status": "ready"})

    @router.get("/version", responses={200: {"model": VersionReply}, **errors()})
    async def version() -> Response:
        return JSONResponse({"version": __version__})

    @router.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {
                "description": "Prometheus' text format.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            **errors(401, 403),
        },
    )
    async def show_metrics() -> Response:
        shared = b"" if system is None else await run_in_threadpool(system)
        return Response(metrics.text() + shared, media_type=metrics.content_type)

    @router.get("/v1/models", responses={200: {"model": ModelList}, **errors(401, 403, 429)})
    async def list_models(request: Request) -> Response:
        usable = models.open_to(caller_of(request.scope))
        cards = [_card(each, name, created) for each in usable for name in each.model.names]
        return JSONResponse({"object": "list", "data": cards})

    @router.get("/v1/models/{name:path}", responses={200: {"model": ModelCard}, **errors(401, 403, 404, 429)})
    async def show_model(name: str, request: Request) -> Response:
        return JSONResponse(_card(models.find(name, caller_of(request.scope)), name, created))

    return router


def _card(served: Served, name: str, created: int) -> dict[str, Any]:
    """A model under one of its names; `root` is its own."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "online-draft",
        "root": served.model.name,
        "parent": None,
        "max_model_len": served.encoder.max_context,
        "aliases": list(served.model.aliases),
        "fingerprint": served.model.fingerprint,
    }


async def _probe(models: Catalogue, model: str | None) -> dict[str, dict[str, Any]]:
    """The states of replicas that work, one of each model, by what a message about it begins with.

    ApiError 503 when a model has none, 404 for a model that there isn't.
    """
    asked = models.all if model is None else (models.find(model, ANYONE),)
    names = [f"model {each.model.name!r}: " if len(models.all) > 1 else "" for each in asked]
    states = await asyncio.gather(*map(_state, asked, names))
    return dict(zip(names, states, strict=True))


async def _state(served: Served, name: str) -> dict[str, Any]:
    try:
        status = await asyncio.wait_for(served.backend.status(), HEALTH_TIMEOUT_S)
    except Exception:
        logger.warning("%sno healthy replica", name, exc_info=True)
        raise ApiError(503, f"{name}no replica is healthy", code="unhealthy") from None
    if status.get("engine_error"):
        logger.warning("%sthe engine is dead: %s", name, status["engine_error"])
        raise ApiError(503, f"{name}the replica's engine is dead", code="engine_dead")
    if not status.get("ready", True):
        raise ApiError(503, f"{name}the replica is not ready yet", code="not_ready")
    return status
