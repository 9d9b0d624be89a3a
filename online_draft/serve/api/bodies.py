"""From the bytes of a request to a checked body."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel

from online_draft.serve.api.errors import ApiError

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

B = TypeVar("B", bound=BaseModel)


async def read_body(request: Request) -> bytes:
    """The bytes of a JSON body; the bound on their number is the application's edge's (`edge.py`)."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        message = f"the body must be JSON: send Content-Type: application/json, not {kind[:100]!r}"
        raise ApiError(400, message, code="invalid_content_type")
    return await request.body()


def parse_body(raw: bytes, schema: type[B]) -> B:
    """The body as `schema` knows it. ApiError or pydantic's ValidationError otherwise."""
    return schema.model_validate(_parse(raw))


def _parse(raw: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(raw.decode("utf-8"), parse_constant=refuse)
        if _SURROGATE.search(raw):
            json.dumps(content, ensure_ascii=False).encode()  # a pair is a character, half of one is not
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not valid JSON: {reason}", code="invalid_json") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return content
