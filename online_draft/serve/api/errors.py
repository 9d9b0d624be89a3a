"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from online_draft.errors import CapacityError, RequestError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class ApiError(Exception):
    """An answer that isn't a success; turned into OpenAI's error shape by the application's handler."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The JSON body, also sent as an event when the 200 is already out."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)


def as_api_error(error: BaseException) -> ApiError:
    """Whatever went wrong, as an answer. Unknown failures are a 500 that tells nothing of our insides."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, CapacityError):
        headers = {"Retry-After": str(error.retry_after_s)}
        return ApiError(503, str(error), error.param, error.code, headers)
    if isinstance(error, RequestError):
        return ApiError(400, str(error), error.param, error.code)
    if isinstance(error, ValidationError):
        return _validation_error(error)
    if isinstance(error, HTTPException):
        code = _CODES.get(
            error.status_code, "invalid_request" if error.status_code < 500 else "internal_error"
        )
        return ApiError(error.status_code, str(error.detail), code=code, headers=dict(error.headers or {}))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return ApiError(400, f"{field}: {first['msg']}", field or None, "invalid_value")
    return ApiError(500, "The server failed to answer this request.", code="internal_error")


def _validation_error(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False)[0]
    param = field_path(first["loc"])
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{param}: {message}" if param else message, param, code)


def field_path(location: tuple[int | str, ...]) -> str | None:
    """`("messages", 0, "user", "content")` as the client knows it: `messages.0.content`.

    Pydantic mixes the tags of union members into the path; only field names and indices stay.
    """
    known = {"role", "content", "type", "text", "tool_calls", "include_usage", "continuous_usage_stats"}
    parts = [str(part) for i, part in enumerate(location) if i == 0 or isinstance(part, int) or part in known]
    return ".".join(parts) or None


def install_handlers(app: FastAPI) -> None:
    """Answer every failure of `app`'s routes in OpenAI's shape."""

    async def handle(_request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    for kind in (ApiError, RequestError, ValidationError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)
