"""`/admin/api/series`: counts over time, for charts. Counts only: who shows them divides."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from online_draft.errors import ConfigError, StoreError
from online_draft.monitor.rollups.histogram import BOUNDS_US
from online_draft.monitor.rollups.reader import Dimension, Series, read_rollup
from online_draft.monitor.rollups.resolutions import finest_since, resolution_of
from online_draft.monitor.rollups.traffic_counts import TrafficCounts
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import ApiError

_DEFAULT_RANGE_S = 900
_MAX_BUCKETS = 2000


class SeriesColumns(BaseModel):
    """One entry a bucket in each list, buckets without traffic left out. Lists in lists go by depth (`tried`,
    `accepted`, `ngram_accepted`) or by latency bucket, and end with the last that isn't 0.

    Requests count where they end, with all their `steps` and what was committed, drafted and accepted in
    them; of the accepted nodes `ngram_accepted` were the n-gram memory's, the others the heads', and of the
    committed tokens the rest were the target's own. `tokens`, latencies and `errors` count when they
    happen, under the version "".
    """

    at: list[int] = Field(description="start of the bucket, Unix seconds")
    requests: list[int]
    prompt_tokens: list[int]
    tokens: list[int]
    steps: list[int]
    committed: list[int]
    drafted: list[int]
    ngram_drafted: list[int]
    tried: list[list[int]]
    accepted: list[list[int]]
    ngram_accepted: list[list[int]]
    first_token: list[list[int]]
    inter_token: list[list[int]]
    errors: list[dict[str, int]]


class SeriesOf(BaseModel):
    """The counts of one group; null stands for all of what was not grouped by."""

    segment: str | None
    version: str | None
    replica: str | None
    buckets: SeriesColumns


class SeriesReply(BaseModel):
    """Counts of [start, end) in buckets of `resolution` seconds. `latency_bounds_us` are the inclusive upper
    bounds of the latency buckets; one more holds what is above."""

    start: int
    end: int
    resolution: int
    latency_bounds_us: tuple[int, ...] = BOUNDS_US
    series: list[SeriesOf]


def build_series_router(desk: AdminDesk) -> APIRouter:
    """The route; whoever includes it asks for the admin key."""
    router = APIRouter()

    @router.get("/series")
    def series(
        start: Annotated[int | None, Query(ge=0, description="Unix seconds; default: 900 before end")] = None,
        end: Annotated[int | None, Query(ge=0, description="Unix seconds; default: now")] = None,
        resolution: Annotated[
            int | None, Query(description="1, 10, 60, 600 or 3600 seconds; default: the finest that is kept")
        ] = None,
        by: Annotated[list[Dimension] | None, Query(description="group by these")] = None,
        segment: Annotated[str | None, Query(description="of this segment only")] = None,
        version: Annotated[str | None, Query(description="of this drafter version only")] = None,
        replica: Annotated[str | None, Query(description="of this replica only")] = None,
    ) -> SeriesReply:
        """Requests, tokens, steps, drafts, acceptance by depth and source, latencies and errors over time."""
        now = _now()
        last = now + 1 if end is None else end
        first = max(0, last - _DEFAULT_RANGE_S) if start is None else start
        if first >= last:
            raise ApiError(
                400, f"start: must be before end, got {first} and {last}", "start", "invalid_value"
            )
        try:
            chosen = finest_since(first, now) if resolution is None else resolution_of(resolution)
            if (last - first) / chosen.seconds > _MAX_BUCKETS:
                raise ConfigError(
                    "resolution", f"makes more than {_MAX_BUCKETS} buckets; choose a coarser one"
                )
            groups = list(dict.fromkeys(by or ()))
            found = read_rollup(
                *desk.redis_client(), first, last, chosen.seconds,
                by=groups, segment=segment, version=version, replica=replica,
            )  # fmt: skip
        except ConfigError as error:
            raise ApiError(400, str(error), error.field, "invalid_value") from error
        except StoreError as error:
            raise ApiError(
                503, str(error), code="counts_unavailable", headers={"Retry-After": "1"}
            ) from error
        return SeriesReply(start=first, end=last, resolution=chosen.seconds, series=_series(found, groups))

    return router


def _now() -> int:
    return int(time.time())


def _series(found: Series, by: list[Dimension]) -> list[SeriesOf]:
    shown = []
    for names, buckets in sorted(found.items()):
        served = {start: counts for start, counts in buckets.items() if counts.served}
        if not served:
            continue
        group: dict[str, str | None] = {"segment": None, "version": None, "replica": None}
        group.update(zip(by, names, strict=True))
        shown.append(SeriesOf(**group, buckets=_columns(served)))
    return shown


def _columns(buckets: dict[int, TrafficCounts]) -> SeriesColumns:
    starts = sorted(buckets)
    counts = [buckets[start] for start in starts]
    return SeriesColumns(
        at=starts,
        requests=[one.requests for one in counts],
        prompt_tokens=[one.prompt_tokens for one in counts],
        tokens=[one.tokens for one in counts],
        steps=[one.speculation.steps for one in counts],
        committed=[one.speculation.committed for one in counts],
        drafted=[one.speculation.drafted for one in counts],
        ngram_drafted=[one.speculation.ngram_drafted for one in counts],
        tried=[one.speculation.tried for one in counts],
        accepted=[one.speculation.accepted for one in counts],
        ngram_accepted=[one.speculation.ngram_accepted for one in counts],
        first_token=[one.first_token for one in counts],
        inter_token=[one.inter_token for one in counts],
        errors=[one.errors for one in counts],
    )
