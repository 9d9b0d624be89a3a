"""The FastAPI application of the OpenAI-compatible endpoint.

Extras beyond OpenAI's fields, all optional: `top_k`, `stop_token_ids`, `ignore_eos`, `return_token_ids`
(as vLLM has them), `speculate: false` (plain decoding), `metrics: true` (adds `metrics` to the answer or
to the last chunk with a finish reason), `metadata.segment` or the header `X-Segment`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from online_draft import __version__
from online_draft.serve.api.answers import envelope, full_answer, role_chunk, step_chunk, usage_chunk
from online_draft.serve.api.backend import Backend
from online_draft.serve.api.errors import ApiError, as_api_error, install_handlers
from online_draft.serve.api.jobs import Job, plan_chat, plan_completion
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.schemas import ChatBody, CompletionBody, GenerationBody
from online_draft.serve.api.streams import (
    DONE,
    EventStream,
    close,
    complete_choices,
    event,
    run_choices,
    unless_gone,
)

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 1024 * 1024
INLINE_BODY_BYTES = 4096
"""Smaller bodies are encoded on the event loop; larger ones in a thread."""
HEALTH_TIMEOUT_S = 5.0
IGNORED_HEADER = "X-Online-Draft-Ignored"

B = TypeVar("B", bound=GenerationBody)


@dataclass(frozen=True, slots=True)
class Model:
    """The one model behind this endpoint, as clients see it."""

    name: str
    fingerprint: str


def build_app(
    backend: Backend, encoder: PromptEncoder, model: Model, admin: APIRouter | None = None
) -> FastAPI:
    """The application: generation routes over `backend`, and the admin routes if given."""
    app = FastAPI(title="online-draft", version=__version__, docs_url=None, redoc_url=None)
    install_handlers(app)
    created = int(time.time())

    def describe() -> dict[str, Any]:
        return {
            "id": model.name,
            "object": "model",
            "created": created,
            "owned_by": "online-draft",
            "max_model_len": encoder.max_context,
        }

    @app.get("/health")
    async def health() -> Response:
        try:
            status = await asyncio.wait_for(backend.status(), HEALTH_TIMEOUT_S)
        except Exception:
            logger.warning("no healthy replica", exc_info=True)
            raise ApiError(503, "no replica is healthy", code="unhealthy") from None
        if not status.get("ready", True):
            raise ApiError(503, "the replica is not ready yet", code="not_ready")
        return JSONResponse({"status": "ok"})

    @app.get("/v1/models")
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [describe()]})

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> Response:
        _check_model(name, model)
        return JSONResponse(describe())

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _answer(request, ChatBody, plan_chat)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(request, CompletionBody, plan_completion)

    async def _answer(
        request: Request, schema: type[B], plan: Callable[[B, PromptEncoder, str | None], Job]
    ) -> Response:
        raw = await _read_body(request)
        body = schema.model_validate(_parse(raw))
        _check_model(body.model, model)
        body.refuse_unsupported()
        segment = request.headers.get("x-segment")
        if len(raw) > INLINE_BODY_BYTES:
            job = await asyncio.to_thread(plan, body, encoder, segment)
        else:
            job = plan(body, encoder, segment)
        headers = {IGNORED_HEADER: ", ".join(body.ignored())} if body.ignored() else {}
        if headers:
            logger.warning("request %s: ignored parameters %s", job.id, headers[IGNORED_HEADER])
        head = envelope(job, model.name, model.fingerprint, chunk=job.streams)
        if job.streams:
            return await unless_gone(request.receive, _start(backend, job, head, headers)) or _client_gone()
        if await unless_gone(request.receive, _finish(backend, job)) is None:
            return _client_gone()
        return JSONResponse(full_answer(job, head), headers=headers)

    if admin is not None:
        app.include_router(admin)
    return app


async def _finish(backend: Backend, job: Job) -> bool:
    await complete_choices(backend, job.choices)
    return True


async def _start(backend: Backend, job: Job, head: dict[str, Any], headers: dict[str, str]) -> Response:
    """Await the first step, so that what fails early has a proper status; then stream."""
    steps = run_choices(backend, job.choices)
    try:
        first = await anext(steps)
    except BaseException:
        await close(steps)
        raise

    async def events() -> AsyncIterator[bytes]:
        try:
            if job.is_chat:
                yield event(role_chunk(job, head))
            index, output = first
            while True:
                if output.text or output.finish_reason or job.body.return_token_ids:
                    yield event(step_chunk(job, head, index, output))
                try:
                    index, output = await anext(steps)
                except StopAsyncIteration:
                    break
            if job.wants_usage_event:
                yield event(usage_chunk(job, head))
        except Exception as error:
            logger.exception("request %s failed while streaming", job.id)
            yield event(as_api_error(error).body())
        finally:
            await close(steps)
        yield DONE

    return EventStream(events(), steps, headers)


def _check_model(name: str, model: Model) -> None:
    if name != model.name:
        message = f"model: there is no model {name[:100]!r}; this endpoint serves {model.name!r}"
        raise ApiError(404, message, "model", "model_not_found")


async def _read_body(request: Request) -> bytes:
    """The body, bounded. A client that lies about its length is cut off as well."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes", code="body_too_large")
        chunks.append(chunk)
    return b"".join(chunks)


def _parse(raw: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(raw.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not valid JSON: {reason}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return content


def _client_gone() -> Response:
    """Nobody reads this; 499 is what proxies log for it."""
    return Response(status_code=499)
