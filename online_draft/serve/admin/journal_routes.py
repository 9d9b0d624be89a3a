"""`/admin/api/journal`: all decisions, filtered, as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel

from online_draft.errors import JournalError, StoreError
from online_draft.registry.journal import Decision, DecisionKind
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import ApiError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets run a cell that begins so."""


class DecisionReply(BaseModel):
    """One entry, as in the journal."""

    seq: int
    kind: DecisionKind
    version: str | None
    actor: str
    reason: str
    numbers: dict[str, Any]
    at_ms: int


class JournalReply(BaseModel):
    """The newest entries that match, oldest first; `seq` is the journal's last number, `matched` how many
    match."""

    seq: int
    matched: int
    decisions: list[DecisionReply]


def build_journal_router(desk: AdminDesk) -> APIRouter:
    """The route; whoever includes it asks for the admin key."""
    router = APIRouter()

    @router.get(
        "/journal",
        response_model=JournalReply,
        responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    )
    def journal(
        start: Annotated[int | None, Query(ge=0, description="Unix seconds")] = None,
        end: Annotated[int | None, Query(ge=0, description="Unix seconds, not included")] = None,
        kind: Annotated[list[DecisionKind] | None, Query(description="of these kinds only")] = None,
        version: Annotated[str | None, Query(description="about this version only")] = None,
        actor: Annotated[str | None, Query(description="by this actor only")] = None,
        limit: Annotated[int, Query(ge=1, le=100_000)] = 1000,
        format: Annotated[Literal["json", "csv"], Query()] = "json",
    ) -> Response | JournalReply:
        """Who decided what, when, why and on which numbers."""
        try:
            decisions = desk.journal.read()
        except (JournalError, StoreError) as error:
            headers = {"Retry-After": "1"}
            raise ApiError(503, str(error), code="journal_unavailable", headers=headers) from error
        wanted: list[Callable[[Decision], bool]] = [
            lambda one: start is None or one.at_ms >= 1000 * start,
            lambda one: end is None or one.at_ms < 1000 * end,
            lambda one: kind is None or one.kind in kind,
            lambda one: version is None or one.version == version,
            lambda one: actor is None or one.actor == actor,
        ]
        matched = [one for one in decisions if all(wants(one) for wants in wanted)]
        if format == "csv":
            headers = {"Content-Disposition": 'attachment; filename="journal.csv"'}
            return Response(as_csv(matched[-limit:]), media_type="text/csv", headers=headers)
        return JournalReply(
            seq=len(decisions),
            matched=len(matched),
            decisions=[DecisionReply(**asdict(one)) for one in matched[-limit:]],
        )

    return router


def as_csv(decisions: list[Decision]) -> str:
    """A line each; what a spreadsheet would take for a formula gets an apostrophe in front."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(DecisionReply.model_fields)
    for one in decisions:
        row = {**asdict(one), "numbers": json.dumps(one.numbers, separators=(",", ":"))}
        writer.writerow([_cell(row[name]) for name in DecisionReply.model_fields])
    return out.getvalue()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
