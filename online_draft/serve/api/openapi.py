"""The OpenAPI document, for routes that read their bodies themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from online_draft.serve.api.replies import ErrorReply

_REFERENCE = "#/components/schemas/{model}"

_ERRORS = {
    400: "The request is wrong; `param` names the field.",
    401: "An API key is needed.",
    403: "This key may not do that.",
    404: "There is no such model.",
    413: "The body is too large.",
    429: "A rate limit is reached; `Retry-After` says when to come back.",
    500: "The server failed.",
    503: "No replica can take it now; `Retry-After` says when to come back.",
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that may fail with these statuses; 500 is always among them."""
    return {
        status: {"model": ErrorReply, "description": _ERRORS[status]} for status in sorted({*statuses, 500})
    }


def takes(schema: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads a JSON body of this schema."""
    content = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=schema.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}


def streams(answer: type[BaseModel], chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with `answer`, or with events of `chunk`."""
    data = (
        f"A {chunk.__name__} each, an ErrorReply where something fails late, `[DONE]` at the end; all but "
        "that is JSON."
    )
    # As OpenAPI 3.2 describes the events of a stream one by one.
    events = {
        "type": "object",
        "required": ["data"],
        "properties": {"data": {"type": "string", "description": data}},
    }
    content = {"text/event-stream": {"schema": events}}
    return {200: {"model": answer, "content": content, "description": "The answer, or its events."}}


def install_document(app: FastAPI, schemas: Iterable[type[BaseModel]]) -> None:
    """Make `app.openapi` tell what is true: `schemas` are bodies and events that no route declares."""
    _, extra = models_json_schema([(schema, "validation") for schema in schemas], ref_template=_REFERENCE)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, routes=app.routes)
            components = made.setdefault("components", {}).setdefault("schemas", {})
            components.update(extra.get("$defs", {}))
            for name in ("HTTPValidationError", "ValidationError"):
                components.pop(name, None)
            for name, path in made["paths"].items():
                for operation in path.values():
                    if operation["responses"].pop("422", None):
                        operation["responses"].setdefault("400", _failure(400))
                    if name.startswith("/admin/api/"):
                        operation.setdefault("parameters", []).append(_MODEL)
                        operation["responses"].setdefault("404", _failure(404))
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


_MODEL = {
    "name": "model",
    "in": "query",
    "required": False,
    "schema": {"type": "string"},
    "description": "of which model; default: the first",
}
"""What `serve.admin.choice` looks at."""


def _failure(status: int) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(model=ErrorReply.__name__)}
    return {"description": _ERRORS[status], "content": {"application/json": {"schema": schema}}}
