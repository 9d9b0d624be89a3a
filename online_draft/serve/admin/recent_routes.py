"""`/admin/api/requests`: the newest recorded requests, by counts. Neither tokens nor text."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from online_draft.buffer.records import decode
from online_draft.errors import StoreError
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import ApiError
from online_draft.store import redis_errors


class RequestReply(BaseModel):
    """One choice of a request; `committed` tokens came in `steps` steps."""

    record: str = Field(description="its entry in the records stream")
    at_ms: int
    tenant: str
    segment: str
    version: str
    prompt_tokens: int
    committed: int
    steps: int
    tried: list[int]
    accepted: list[int]


class RequestsReply(BaseModel):
    """Newest first. Requests that opted out of records are not here."""

    requests: list[RequestReply]


def build_recent_router(desk: AdminDesk) -> APIRouter:
    """The route; whoever includes it asks for the admin key."""
    router = APIRouter()

    @router.get("/requests")
    def recent(
        limit: Annotated[int, Query(ge=1, le=1000, description="of the newest records")] = 200,
        segment: Annotated[str | None, Query(description="of this segment only")] = None,
    ) -> RequestsReply:
        """Lengths and acceptance of the newest requests that left a record."""
        try:
            client, keys = desk.redis_client()
            with redis_errors("read records"):
                raw = cast(Any, client.xrevrange(keys.records, count=limit))
        except StoreError as error:
            headers = {"Retry-After": "1"}
            raise ApiError(503, str(error), code="records_unavailable", headers=headers) from error
        shown = [_shown(entry.decode(), fields.get(b"d"), desk.registry.target) for entry, fields in raw]
        return RequestsReply(
            requests=[one for one in shown if one is not None and segment in (None, one.segment)]
        )

    return router


def _shown(entry: str, data: bytes | None, target: str) -> RequestReply | None:
    """None for what was erased, is of another target or can't be read."""
    if data is None:
        return None
    try:
        record = decode(data)
    except StoreError:
        return None
    if record.target != target:
        return None
    return RequestReply(
        record=entry,
        at_ms=record.finished_at_ms,
        tenant=record.tenant,
        segment=record.segment,
        version=record.drafter_version,
        prompt_tokens=len(record.prompt_ids),
        committed=len(record.output_ids),
        steps=len(record.accepted_lengths),
        tried=list(record.tried),
        accepted=list(record.accepted),
    )
