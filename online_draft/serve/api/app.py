"""The FastAPI application of the OpenAI-compatible endpoint: routes, and what surrounds them all.

What it accepts, refuses and ignores stands in docs/api.md.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from online_draft import __version__
from online_draft.serve.access.gate import Gate
from online_draft.serve.access.middleware import install_gate
from online_draft.serve.api.backend import Backend
from online_draft.serve.api.edge import Edge
from online_draft.serve.api.errors import install_handlers
from online_draft.serve.api.generation import Generation
from online_draft.serve.api.metrics import ApiMetrics
from online_draft.serve.api.model import Model
from online_draft.serve.api.openapi import install_document
from online_draft.serve.api.probes import build_probe_router
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.replies import ChatChunk, CompletionChunk
from online_draft.serve.api.schemas import ChatBody, CompletionBody
from online_draft.serve.api.tokens import DetokenizeBody, TokenizeBody, build_token_router

__all__ = ["Model", "build_app"]


def build_app(
    backend: Backend,
    encoder: PromptEncoder,
    model: Model,
    admin: APIRouter | None = None,
    *,
    gate: Gate | None = None,
    echo_request_id: bool = True,
) -> FastAPI:
    """The application over `backend`, with the admin routes if given, behind `gate` if given.

    `echo_request_id=False` where a proxy in front gives answers their `X-Request-Id`.
    """
    app = FastAPI(title="online-draft", version=__version__, docs_url=None, redoc_url=None)
    install_handlers(app)
    metrics = ApiMetrics()
    app.include_router(Generation(backend, encoder, model, metrics).router())
    app.include_router(build_token_router(encoder, model))
    app.include_router(build_probe_router(backend, model, encoder.max_context, metrics))
    if admin is not None:
        app.include_router(admin)
    install_document(
        app, (ChatBody, CompletionBody, TokenizeBody, DetokenizeBody, ChatChunk, CompletionChunk)
    )
    if gate is not None:
        install_gate(app, gate)
    app.add_middleware(Edge, metrics=metrics, echo_id=echo_request_id)  # last: outermost
    return app
