"""The gate as ASGI middleware: in front of every route, beside every answer, behind `api.edge`."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from online_draft.logs import bound
from online_draft.serve.access.errors import wrong_key
from online_draft.serve.access.gate import Gate
from online_draft.serve.access.key import ANYONE
from online_draft.serve.access.ticket import SCOPE_KEY, Ticket
from online_draft.serve.api.errors import ApiError
from online_draft.serve.api.streams import DONE, event

request_log = logging.getLogger("online_draft.requests")

_PLAIN_PATH = re.compile(r"[A-Za-z0-9/_.:-]{1,100}")
EXPOSED = (
    "X-Request-Id",
    "Retry-After",
    *(
        f"x-ratelimit-{what}-{kind}"
        for what in ("limit", "remaining", "reset")
        for kind in ("requests", "tokens")
    ),
)
_DISCONNECT: Message = {"type": "http.disconnect"}


def install_gate(app: FastAPI, gate: Gate) -> None:
    """Put the gate in front of an application; before it browsers of allowed origins are answered (CORS)."""
    app.add_middleware(AccessMiddleware, gate=gate)
    if gate.config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=gate.config.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Request-Id", "X-Segment"),
            expose_headers=EXPOSED,
            max_age=600,
        )


class AccessMiddleware:
    """Asks for the key, counts, and writes one log line when a request has ended.

    A request of a key that is revoked meanwhile is ended: 401, or an error event in its stream.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = _Call(scope, send)
        with bound(request_id=str(scope.get("state", {}).get("request_id", ""))):
            try:
                key = self._gate.identify(scope["path"], Headers(scope=scope).get("authorization"))
                with bound(tenant=key.tenant):
                    await self._serve(call, await self._gate.open(key, scope["method"] == "POST"), receive)
            except ApiError as error:
                await call.refuse(error)
            finally:
                call.log()

    async def _serve(self, call: _Call, ticket: Ticket, receive: Receive) -> None:
        call.take(ticket, self._gate)
        call.scope[SCOPE_KEY] = ticket
        call.scope.setdefault("state", {})["caller"] = ticket.caller

        async def until_revoked() -> Message:
            if ticket.revoked.is_set():
                return _DISCONNECT
            tasks = asyncio.ensure_future(receive()), asyncio.ensure_future(ticket.revoked.wait())
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                return tasks[0].result() if tasks[0].done() else _DISCONNECT
            finally:
                for task in tasks:
                    task.cancel()

        try:
            await self._app(call.scope, receive if ticket.key is ANYONE else until_revoked, call.send)
        finally:
            if not ticket.closed:
                await asyncio.shield(self._gate.close(ticket))
            if ticket.revoked.is_set():
                await call.cut_off()


class _Call:
    """The answer to one request as it goes out."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self._send = send
        self._ticket: Ticket | None = None
        self._gate: Gate | None = None
        self._status: int | None = None
        self._ended = False
        self._streams = False
        self._began = time.perf_counter()
        self._first_byte_s: float | None = None

    def take(self, ticket: Ticket, gate: Gate) -> None:
        """The request was let in."""
        self._ticket, self._gate = ticket, gate

    async def send(self, message: Message) -> None:
        """The application's answer, with our headers; settled before its last byte goes out."""
        ticket = self._ticket
        if ticket is not None and ticket.revoked.is_set():
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            found = MutableHeaders(scope=message)
            if ticket is not None:
                found.update(ticket.headers)
            self._streams = found.get("content-type", "").startswith("text/event-stream")
        elif message["type"] == "http.response.body":
            if self._first_byte_s is None:
                self._first_byte_s = time.perf_counter() - self._began
            if not message.get("more_body", False):
                self._ended = True
                if ticket is not None and self._gate is not None:
                    await self._gate.close(ticket)
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error instead of the application."""
        response = error.response()
        self._status, self._ended = error.status, True
        if self._ticket is not None:
            response.headers.update(self._ticket.headers)
        await self._send(
            {"type": "http.response.start", "status": error.status, "headers": response.raw_headers}
        )
        await self._send({"type": "http.response.body", "body": response.body})

    async def cut_off(self) -> None:
        """End an answer whose key was revoked."""
        if self._ended:
            return
        if self._status is None:
            await self.refuse(wrong_key())
            return
        self._ended = True
        last = event(wrong_key().body()) + DONE if self._streams else b""
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    def log(self) -> None:
        """One line, without a word of prompt or answer."""
        path = self.scope["path"]
        about: dict[str, Any] = {
            "method": self.scope["method"],
            "path": path if _PLAIN_PATH.fullmatch(path) else "?",
            "status": self._status,
            "duration_ms": round(1000 * (time.perf_counter() - self._began), 1),
        }
        if self._first_byte_s is not None:
            about["first_byte_ms"] = round(1000 * self._first_byte_s, 1)
        ticket = self._ticket
        if ticket is not None:
            about["tenant"], about["key"] = ticket.key.tenant, ticket.key.name
        if ticket is not None and ticket.job is not None:
            job = ticket.job
            about["id"], about["model"] = job.id, job.body.model
            about["prompt_tokens"], about["completion_tokens"] = ticket.tokens
            versions = sorted({choice.drafter_version for choice in job.choices if choice.drafter_version})
            about["drafter_version"] = ",".join(versions) or None
        request_log.info("request", extra={"fields": about})
