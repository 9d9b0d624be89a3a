"""Routes that tell about the service: health, readiness, version, metrics, models."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from online_draft import __version__
from online_draft.serve.api.backend import Backend
from online_draft.serve.api.errors import ApiError
from online_draft.serve.api.metrics import ApiMetrics
from online_draft.serve.api.model import Model
from online_draft.serve.api.openapi import errors
from online_draft.serve.api.replies import ModelCard, ModelList, StatusReply, VersionReply

logger = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 5.0


def build_probe_router(backend: Backend, model: Model, max_context: int, metrics: ApiMetrics) -> APIRouter:
    """The routes. `/health` asks whether a replica works, `/ready` whether it takes new requests, too."""
    router = APIRouter(tags=["service"])
    card = {
        "id": model.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "online-draft",
        "root": model.name,
        "parent": None,
        "max_model_len": max_context,
    }

    async def probe() -> dict[str, Any]:
        try:
            status = await asyncio.wait_for(backend.status(), HEALTH_TIMEOUT_S)
        except Exception:
            logger.warning("no healthy replica", exc_info=True)
            raise ApiError(503, "no replica is healthy", code="unhealthy") from None
        if status.get("engine_error"):
            logger.warning("the engine is dead: %s", status["engine_error"])
            raise ApiError(503, "the replica's engine is dead", code="engine_dead")
        if not status.get("ready", True):
            raise ApiError(503, "the replica is not ready yet", code="not_ready")
        return status

    @router.get("/health", responses={200: {"model": StatusReply}, **errors(503)})
    async def health() -> Response:
        await probe()
        return JSONResponse({"status": "ok"})

    @router.get("/ready", responses={200: {"model": StatusReply}, **errors(503)})
    async def ready() -> Response:
        if (await probe()).get("draining"):
            raise ApiError(503, "the replica is shutting down", code="draining")
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
        return Response(metrics.text(), media_type=metrics.content_type)

    @router.get("/v1/models", responses={200: {"model": ModelList}, **errors(401, 403, 429)})
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    @router.get("/v1/models/{name:path}", responses={200: {"model": ModelCard}, **errors(401, 403, 404, 429)})
    async def show_model(name: str) -> Response:
        model.check(name)
        return JSONResponse(card)

    return router
