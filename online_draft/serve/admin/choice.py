"""The admin API of several models: `?model=` says whose routes are meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fastapi import APIRouter, FastAPI
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from online_draft.serve.api.errors import ApiError, install_handlers

PREFIX = "/admin/api/"


class ModelChoice:
    """Middleware that hands requests below `/admin/api` that name another model than the first to an
    application of that model's routes."""

    def __init__(self, app: ASGIApp, first: Iterable[str], others: Mapping[str, APIRouter]) -> None:
        """`first` are the names of the model whose routes `app` has, `others` the other models' routes by
        each of their names."""
        self._app = app
        apps = {id(router): _application(router) for router in others.values()}  # one for all its names
        self._apps = {name: apps[id(router)] for name, router in others.items()} | dict.fromkeys(first, app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        app = self._app
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            name = QueryParams(scope["query_string"]).get("model")
            if name is not None:
                app = self._apps.get(name, _unknown)
        await app(scope, receive, send)


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    message = "model: there is no such model; GET /admin/api/models lists all"
    await ApiError(404, message, "model", "model_not_found").response()(scope, receive, send)


def _application(router: APIRouter) -> ASGIApp:
    app = FastAPI(openapi_url=None)
    install_handlers(app)
    app.include_router(router)
    return app
