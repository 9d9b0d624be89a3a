"""`/admin/api/events`: what changes of the service, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from online_draft.errors import JournalError, StoreError
from online_draft.serve.admin.auth import COOKIE, AdminAuth
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.drift_routes import drifts
from online_draft.serve.admin.replica_routes import replicas

EVERY_S = 2.0
LIFE_S = 30.0
"""How long a stream lasts; browsers ask again by themselves, maybe another ingress."""

_LEFT_OUT = ("counts",)
"""Of the status: it is long, and the series have it."""


class Pulse:
    """Looks at the service while somebody listens: once for all of them."""

    def __init__(self, look: Callable[[], dict[str, Any]], every_s: float = EVERY_S) -> None:
        """`look` may block; it runs in a thread."""
        self._look = look
        self._every_s = every_s
        self._lock = asyncio.Lock()
        self._at = float("-inf")
        self._seen = ""

    async def follow(self, allowed: Callable[[], bool], life_s: float = LIFE_S) -> AsyncIterator[str]:
        """One `status` event at once, and a further one after each change; between them only a comment, from
        which a listener knows that all is well. Ends when no longer `allowed`."""
        until = time.monotonic() + life_s
        sent = ""
        yield f"retry: {int(self._every_s * 500)}\n\n"
        while allowed() and time.monotonic() < until:
            seen = await self._newest()
            yield f"event: status\ndata: {seen}\n\n" if seen != sent else "event: same\ndata:\n\n"
            sent = seen
            await asyncio.sleep(self._every_s)

    async def _newest(self) -> str:
        async with self._lock:
            if time.monotonic() - self._at >= self._every_s / 2:
                self._seen = json.dumps(await run_in_threadpool(self._look), separators=(",", ":"))
                self._at = time.monotonic()
            return self._seen


def build_events_router(
    desk: AdminDesk, auth: AdminAuth, ending: Callable[[], bool] = lambda: False
) -> APIRouter:
    """The route; whoever includes it asks for the admin key. Streams end when the service is `ending`."""
    router = APIRouter()
    pulse = Pulse(lambda: look(desk))

    @router.get(
        "/events",
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "Events `status` with the state as JSON; `same` when nothing changed.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            }
        },
    )
    async def events(request: Request) -> StreamingResponse:
        """State of ladder, replicas, learner, alarms and drift, again with every change."""
        by_cookie = COOKIE in request.cookies and "authorization" not in request.headers

        def allowed() -> bool:
            return not ending() and (not by_cookie or auth.session_of(request) is not None)

        stream = pulse.follow(allowed)
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    return router


def look(desk: AdminDesk) -> dict[str, Any]:
    """What the page's head shows. Blocks; what can't be read is said and not raised."""
    seen: dict[str, Any] = {"replicas": None, "drift": None}
    try:
        overview = desk.overview()
        seen.update({name: value for name, value in overview.items() if name not in _LEFT_OUT})
    except (JournalError, StoreError) as error:
        seen["journal_error"] = str(error)
    try:
        seen["replicas"] = [replica.model_dump() for replica in replicas(desk)]
        seen["drift"] = [drift.model_dump() for drift in drifts(desk)]
    except StoreError as error:
        seen["redis_error"] = str(error)
    return seen
