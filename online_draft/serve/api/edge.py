"""What happens to every request before any route sees it, and to every answer after."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from online_draft.serve.api.errors import as_api_error
from online_draft.serve.api.metrics import ApiMetrics

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 4 * 1024 * 1024
REQUEST_ID_HEADER = "X-Request-Id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/=+-]{0,127}")


class Edge:
    """The outermost middleware: request ids, a bound on bodies, failures that nobody handled, counts.

    A request's id is in `scope["state"]["request_id"]`: the client's if it is 1 to 128 harmless characters,
    else a new one. `echo_id=False` leaves the header to a proxy that sets it.
    """

    def __init__(self, app: ASGIApp, metrics: ApiMetrics, echo_id: bool = True) -> None:
        self._app = app
        self._metrics = metrics
        self._echo_id = echo_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_of(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0
        begun = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._echo_id:
                    MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                said = headers.get("content-length", "")
                _refuse_long(int(said) if said.isdecimal() and len(said) < 20 else 0)
                await self._app(scope, _bounded(receive), send_with_id)
            except Exception as error:
                if status:
                    raise
                failure = as_api_error(error)
                if failure.status == 500:
                    logger.exception("request %s failed", request_id)
                await failure.response()(scope, receive, send_with_id)
            finally:
                self._metrics.answered(scope, status, time.perf_counter() - begun)


def request_id_of(headers: Headers) -> str:
    """The client's id for a request if it is fit for logs and headers, else a new one."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"


def _bounded(receive: Receive) -> Receive:
    """Cut a body off where it gets too long, whatever its length was said to be."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            _refuse_long(size)
        return message

    return bounded


def _refuse_long(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
