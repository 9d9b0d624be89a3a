"""`/admin/api/drift/samples`: drift acceptance over time, as sums that give rates and their errors."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from online_draft.errors import StoreError
from online_draft.monitor.rollups.drift_counts import DriftCounts
from online_draft.monitor.rollups.reader import Dimension, read_rollup
from online_draft.monitor.rollups.resolutions import RESOLUTIONS, Resolution
from online_draft.monitor.rollups.traffic_counts import TrafficCounts
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import ApiError

_DEFAULT_RANGE_S = 900
_MAX_BUCKETS = 2000


class DriftColumns(BaseModel):
    """One entry a bucket in each list; buckets without samples are left out.

    Over the samples of a bucket, with `h` right guesses of `t` of one sample: `hits` is Σh, `tried` Σt, and
    `hits_squared`, `hits_tried`, `tried_squared` are Σh², Σht and Σt². The rate is hits / tried; with n
    samples its variance is n / (n − 1) · (Σh² − 2 rate Σht + rate² Σt²) / tried². The target's mean entropy
    in nats is `entropy_micro` / `positions` / 10⁶.
    """

    at: Annotated[list[int], Field(description="start of the bucket, Unix seconds")] = []
    samples: list[int] = []
    hits: list[int] = []
    tried: list[int] = []
    hits_squared: list[int] = []
    hits_tried: list[int] = []
    tried_squared: list[int] = []
    baseline_hits: list[int] = []
    baseline_tried: list[int] = []
    entropy_micro: list[int] = []
    positions: list[int] = []


class DriftSeries(BaseModel):
    """One segment's."""

    segment: str
    buckets: DriftColumns


class DriftSamplesReply(BaseModel):
    """Samples of the buckets of `resolution` seconds that overlap [start, end): as asked for, rounded up to
    what counts are kept in. They are kept for 30 days."""

    start: int
    end: int
    resolution: int
    series: list[DriftSeries]


def build_drift_history_router(desk: AdminDesk) -> APIRouter:
    """The route; whoever includes it asks for the admin key."""
    router = APIRouter()

    @router.get("/drift/samples")
    def samples(
        start: Annotated[int | None, Query(ge=0, description="Unix seconds; default: 900 before end")] = None,
        end: Annotated[int | None, Query(ge=0, description="Unix seconds; default: now")] = None,
        resolution: Annotated[int, Query(ge=1, le=86_400, description="seconds")] = 60,
        segment: Annotated[str | None, Query(description="of this segment only")] = None,
    ) -> DriftSamplesReply:
        """How often the heads' likeliest token was right, replayed with champion and baseline."""
        now = _now()
        last = now + 1 if end is None else end
        first = max(0, last - _DEFAULT_RANGE_S) if start is None else start
        if first >= last:
            raise ApiError(
                400, f"start: must be before end, got {first} and {last}", "start", "invalid_value"
            )
        if (last - first) / resolution > _MAX_BUCKETS:
            message = f"resolution: makes more than {_MAX_BUCKETS} buckets; choose a coarser one"
            raise ApiError(400, message, "resolution", "invalid_value")
        kept = _kept_in(resolution, now - first)
        seconds = -(-resolution // kept.seconds) * kept.seconds
        by: tuple[Dimension] = ("segment",)
        try:
            found = read_rollup(
                *desk.redis_client(), first - first % seconds, last, kept.seconds,
                by=by, segment=segment,
            )  # fmt: skip
        except StoreError as error:
            raise ApiError(503, str(error), code="drift_unavailable", headers={"Retry-After": "1"}) from error
        series = [
            DriftSeries(segment=name, buckets=columns)
            for (name,), buckets in sorted(found.items())
            if (columns := _columns(buckets, seconds)).at
        ]
        return DriftSamplesReply(start=first, end=last, resolution=seconds, series=series)

    return router


def _now() -> int:
    return int(time.time())


def _kept_in(resolution: int, age_s: int) -> Resolution:
    """In which buckets to look for those of `resolution` seconds: as few as round it up by a quarter at most,
    and such as are kept for so long."""
    kept = [one for one in RESOLUTIONS if age_s <= one.keep_s] or [RESOLUTIONS[-1]]
    return next((one for one in reversed(kept) if 4 * one.seconds <= resolution), kept[0])


def _columns(buckets: dict[int, TrafficCounts], seconds: int) -> DriftColumns:
    sums: dict[int, DriftCounts] = {}
    for start, counts in sorted(buckets.items()):
        if counts.drift.samples:
            sums.setdefault(start - start % seconds, DriftCounts()).add(counts.drift)
    columns = DriftColumns(at=list(sums))
    for name in DriftColumns.model_fields.keys() - {"at"}:
        values = [getattr(one, name) for one in sums.values()]
        setattr(columns, name, [sum(value) if isinstance(value, list) else value for value in values])
    return columns
