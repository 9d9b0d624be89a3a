"""`/admin/api/drift/samples`: drift acceptance over time, as sums that give rates and their errors."""

from __future__ import annotations

import time
from typing import Annotated

import redis
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from online_draft.errors import StoreError
from online_draft.monitor.drift.samples import DriftSample, read_drift_samples, read_drift_segments
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import ApiError
from online_draft.store import RedisKeys

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
    """Samples of [start, end) in buckets of `resolution` seconds. A segment keeps its newest 2,048, for a
    week."""

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
        last = int(time.time()) + 1 if end is None else end
        first = max(0, last - _DEFAULT_RANGE_S) if start is None else start
        if first >= last:
            raise ApiError(
                400, f"start: must be before end, got {first} and {last}", "start", "invalid_value"
            )
        if (last - first) / resolution > _MAX_BUCKETS:
            message = f"resolution: makes more than {_MAX_BUCKETS} buckets; choose a coarser one"
            raise ApiError(400, message, "resolution", "invalid_value")
        target = desk.registry.target
        series = []
        try:
            client, keys = desk.redis_client()
            for name in sorted(read_drift_segments(client, keys, target)):
                if segment in (None, name):
                    columns = _columns(client, keys, target, name, first, last, resolution)
                    series.append(DriftSeries(segment=name, buckets=columns))
        except StoreError as error:
            raise ApiError(503, str(error), code="drift_unavailable", headers={"Retry-After": "1"}) from error
        return DriftSamplesReply(start=first, end=last, resolution=resolution, series=series)

    return router


def _columns(
    client: redis.Redis, keys: RedisKeys, target: str, segment: str, first: int, last: int, seconds: int
) -> DriftColumns:
    columns = DriftColumns()
    after = str(1000 * first - 1) if first else ""
    while page := read_drift_samples(client, keys, target, segment, after):
        for entry, sample in page:
            at_s = int(entry.partition("-")[0]) // 1000
            if first <= at_s < last and sample is not None:
                _add(columns, at_s - at_s % seconds, sample)
        after = page[-1][0]
    return columns


def _add(columns: DriftColumns, at: int, sample: DriftSample) -> None:
    """Add a sample to its bucket, the newest one."""
    hits, tried = sum(sample.champion.hits), sum(sample.champion.tried)
    if not columns.at or columns.at[-1] != at:
        for name in DriftColumns.model_fields:
            getattr(columns, name).append(0)
        columns.at[-1] = at
    for name, value in (
        ("samples", 1),
        ("hits", hits),
        ("tried", tried),
        ("hits_squared", hits * hits),
        ("hits_tried", hits * tried),
        ("tried_squared", tried * tried),
        ("baseline_hits", sum(sample.baseline.hits)),
        ("baseline_tried", sum(sample.baseline.tried)),
        ("entropy_micro", sample.entropy_micro),
        ("positions", sample.positions),
    ):
        getattr(columns, name)[-1] += value
