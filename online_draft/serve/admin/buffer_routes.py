"""`/admin/api/buffer`: the books of the replay buffer, and the erasure of a tenant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from online_draft.errors import StoreError
from online_draft.serve.admin.buffer_desk import WAIT_S, BufferDesk
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import ApiError


class EraseBody(BaseModel):
    """Whom, and how long to wait for those who run."""

    model_config = ConfigDict(extra="forbid")

    tenant: Annotated[str, Field(min_length=1, max_length=256)]
    wait_s: Annotated[float, Field(ge=0, le=60)] = WAIT_S


def build_buffer_router(desk: AdminDesk) -> APIRouter:
    """Routes below a router that asks for the admin key. Threads of the pool run them."""
    buffer = BufferDesk(desk)
    router = APIRouter(prefix="/buffer")

    @router.get("")
    def stats() -> dict[str, Any]:
        return _asking(buffer.stats)

    @router.post("/erase")
    def erase(body: EraseBody) -> dict[str, Any]:
        return _asking(lambda: buffer.erase(body.tenant, body.wait_s))

    return router


def _asking(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except StoreError as error:
        raise ApiError(503, str(error), code="buffer_unavailable", headers={"Retry-After": "1"}) from error
