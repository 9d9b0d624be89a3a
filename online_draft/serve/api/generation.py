"""The two generation routes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from online_draft.serve.access.ticket import admit
from online_draft.serve.api.answers import envelope, full_answer, role_chunks, step_chunk, usage_chunk
from online_draft.serve.api.bodies import parse_body, read_body
from online_draft.serve.api.errors import as_api_error
from online_draft.serve.api.jobs import Caller, Job, Labels, caller_of, plan_chat, plan_completion
from online_draft.serve.api.metrics import ApiMetrics
from online_draft.serve.api.model import Catalogue, Served
from online_draft.serve.api.openapi import errors, streams, takes
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.replies import ChatChunk, ChatCompletion, Completion, CompletionChunk
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
from online_draft.serve.api.unsupported import ignored, refuse_unsupported
from online_draft.serve.tracing.generation import begin_generation, end_generation

logger = logging.getLogger(__name__)

INLINE_BODY_BYTES = 4096
"""Smaller bodies are checked and encoded on the event loop; larger ones in a thread."""
IGNORED_HEADER = "X-Online-Draft-Ignored"

B = TypeVar("B", bound=GenerationBody)
Plan = Callable[[B, PromptEncoder, Labels, Caller], Job]


@dataclass(frozen=True, slots=True)
class Generation:
    """What the routes work with."""

    models: Catalogue
    metrics: ApiMetrics

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(tags=["generation"])
        failures = errors(400, 401, 403, 404, 413, 429, 503)

        @router.post(
            "/v1/chat/completions",
            openapi_extra=takes(ChatBody),
            responses={**streams(ChatCompletion, ChatChunk), **failures},
        )
        async def chat_completions(request: Request) -> Response:
            return await self._answer(request, ChatBody, plan_chat)

        @router.post(
            "/v1/completions",
            openapi_extra=takes(CompletionBody),
            responses={**streams(Completion, CompletionChunk), **failures},
        )
        async def completions(request: Request) -> Response:
            return await self._answer(request, CompletionBody, plan_completion)

        return router

    async def _answer(self, request: Request, schema: type[B], plan: Plan[B]) -> Response:
        raw = await read_body(request)
        caller = caller_of(request.scope)
        labels = Labels(request.headers.get("x-segment"), request.headers.get("x-session-id"))

        def check() -> tuple[Served, Job]:
            body = parse_body(raw, schema)
            served = self.models.find(body.model, caller)
            refuse_unsupported(body.model_extra or {})
            body.check()
            return served, plan(body, served.encoder, labels, caller)

        served, job = check() if len(raw) <= INLINE_BODY_BYTES else await asyncio.to_thread(check)
        await admit(request.scope, job)
        span = begin_generation(job, served.model.name)
        job = job if span is None else replace(job, span=span)
        unknown = ", ".join(ignored(job.body.model_extra or {}))
        headers = {IGNORED_HEADER: unknown} if unknown else {}
        if unknown:
            logger.warning(
                "request %s (%s): ignored parameters %s", request.state.request_id, job.id, unknown
            )
        model = served.model
        head = envelope(job, job.body.model or model.name, model.fingerprint, chunk=job.streams)
        if job.streams:
            stream = self._stream(served, job, head, headers)
            return await unless_gone(request.receive, stream) or _client_gone()
        if await unless_gone(request.receive, self._finish(served, job)) is None:
            return _client_gone()
        return JSONResponse(full_answer(job, head), headers=headers)

    async def _finish(self, served: Served, job: Job) -> bool:
        begun = time.perf_counter()
        try:
            await complete_choices(served.backend, job.choices)
        finally:
            self._count(served, job, begun, None)
        return True

    async def _stream(
        self, served: Served, job: Job, head: dict[str, Any], headers: dict[str, str]
    ) -> Response:
        """Await the first step, so that what fails early has a proper status; then stream."""
        begun = time.perf_counter()
        steps = run_choices(served.backend, job.choices)
        try:
            first = await anext(steps)
        except BaseException:
            await close(steps)
            self._count(served, job, begun, None)
            raise
        first_after = time.perf_counter() - begun

        async def events() -> AsyncIterator[bytes]:
            try:
                if job.is_chat:
                    yield b"".join(event(chunk) for chunk in role_chunks(job, head))
                index, output = first
                while True:
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
                self._count(served, job, begun, first_after)
            yield DONE

        return EventStream(events(), steps, headers)

    def _count(self, served: Served, job: Job, begun: float, first_after: float | None) -> None:
        seconds = time.perf_counter() - begun
        self.metrics.generated(served.model.name, job.choices, job.prompt_tokens, seconds, first_after)
        end_generation(job.span, job, first_after)


def _client_gone() -> Response:
    """Nobody reads this; 499 is what proxies log for it."""
    return Response(status_code=499)
