"""The FastAPI application of the OpenAI-compatible endpoint: routes, and what surrounds them all.

What it accepts, refuses and ignores stands in docs/api.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter, FastAPI

from online_draft import __version__
from online_draft.serve.access.gate import Gate
from online_draft.serve.access.middleware import install_gate
from online_draft.serve.admin.choice import ModelChoice
from online_draft.serve.api.backend import Backend
from online_draft.serve.api.edge import Edge
from online_draft.serve.api.errors import install_handlers
from online_draft.serve.api.generation import Generation
from online_draft.serve.api.metrics import ApiMetrics
from online_draft.serve.api.model import Catalogue, Model, Served
from online_draft.serve.api.openapi import install_document
from online_draft.serve.api.probes import build_probe_router
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.replies import ChatChunk, CompletionChunk
from online_draft.serve.api.schemas import ChatBody, CompletionBody
from online_draft.serve.api.tokens import DetokenizeBody, TokenizeBody, build_token_router
from online_draft.tracing import tracer

__all__ = ["Model", "Served", "build_app"]


def build_app(
    backend: Backend,
    encoder: PromptEncoder,
    model: Model,
    admin: APIRouter | None = None,
    *,
    gate: Gate | None = None,
    echo_request_id: bool = True,
    system_metrics: Callable[[], bytes] | None = None,
    more: Sequence[Served] = (),
) -> FastAPI:
    """The application over `backend`, with `more` models beside it, with the admin routes if given, behind
    `gate` if given.

    `echo_request_id=False` where a proxy in front gives answers their `X-Request-Id`. `system_metrics` gives
    further lines for `/metrics`; it may block.
    """
    app = FastAPI(title="online-draft", version=__version__, docs_url=None, redoc_url=None)
    install_handlers(app)
    metrics = ApiMetrics()
    models = Catalogue([Served(model, backend, encoder), *more])
    app.include_router(Generation(models, metrics).router())
    app.include_router(build_token_router(models))
    app.include_router(build_probe_router(models, metrics, system_metrics))
    if admin is not None:
        app.include_router(admin)
        routes = {name: each.admin for each in more for name in each.model.names if each.admin is not None}
        app.add_middleware(ModelChoice, first=model.names, others=routes)  # first: innermost
    install_document(
        app, (ChatBody, CompletionBody, TokenizeBody, DetokenizeBody, ChatChunk, CompletionChunk)
    )
    if gate is not None:
        install_gate(app, gate)
    app.add_middleware(Edge, metrics=metrics, echo_id=echo_request_id)  # last: outermost
    traces = tracer()
    if traces is not None:
        from online_draft.serve.tracing.http import TracedRequests

        app.add_middleware(TracedRequests, tracer=traces)
    return app
