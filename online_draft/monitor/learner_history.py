"""What the learner did over time: readings of its counters, in two resolutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from online_draft.core import SCHEMA_VERSION
from online_draft.errors import StoreError
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import pack, unpack

RESOLUTIONS = {10: 1_080, 600: 4_320}
"""Seconds between two readings, and how many are kept: three hours, thirty days."""


@dataclass(frozen=True, slots=True)
class LearnerReading:
    """The learner's counters at `at_s` (Unix). `state_ms` are milliseconds in each state; like `steps`,
    `tokens` and `looks` since it was started. The loss is the last one, τ are those of the last look."""

    at_s: int
    state: str = ""
    state_ms: Mapping[str, int] = field(default_factory=dict)
    steps: int = 0
    tokens: int = 0
    looks: int = 0
    loss: float | None = None
    tau_candidate: float | None = None
    tau_champion: float | None = None


class LearnerHistory:
    """Writes one reading a bucket of each resolution. For one thread."""

    def __init__(self, client: redis.Redis, keys: RedisKeys) -> None:
        self._client = client
        self._keys = keys
        self._written: dict[int, int] = {}

    def note(self, status: Mapping[str, Any], now_s: int) -> None:
        """Write a reading of the learner's status where a bucket has none. StoreError when Redis can't be
        used."""
        for seconds, most in RESOLUTIONS.items():
            start = now_s - now_s % seconds
            if self._written.get(seconds) == start:
                continue
            fields: dict[Any, Any] = {"d": pack(_as_list(status, now_s))}
            stream = self._keys.learner_history(seconds)
            with redis_errors("write the learner's history"):
                try:
                    self._client.xadd(stream, fields, id=f"{1000 * start}-1", maxlen=most, approximate=True)
                except redis.ResponseError as error:
                    if "equal or smaller" not in str(error):  # else another control was faster
                        raise
            self._written[seconds] = start


def read_learner_history(
    client: redis.Redis, keys: RedisKeys, first_s: int, last_s: int, seconds: int
) -> list[LearnerReading]:
    """Readings of the buckets from `first_s` on and before `last_s`, oldest first; `seconds` as in
    `RESOLUTIONS`. StoreError when Redis can't be used."""
    with redis_errors("read the learner's history"):
        stream = keys.learner_history(seconds)
        raw = cast(Any, client.xrange(stream, min=1000 * first_s, max=1000 * last_s - 1))
    return [reading for _, fields in raw if (reading := _reading(fields)) is not None]


def _as_list(status: Mapping[str, Any], now_s: int) -> list[Any]:
    look = status.get("last_look") or {}
    return [
        SCHEMA_VERSION,
        now_s,
        str(status.get("state", "")),
        dict(status.get("state_ms") or {}),
        *(int(status.get(name) or 0) for name in ("steps", "tokens", "looks")),
        status.get("loss"),
        look.get("tau_candidate"),
        look.get("tau_champion"),
    ]


def _reading(fields: Any) -> LearnerReading | None:
    try:
        schema, *values = cast("list[Any]", unpack(fields.get(b"d", b""), "the learner's history"))
        return LearnerReading(*values) if schema == SCHEMA_VERSION else None
    except (StoreError, ValueError, TypeError):
        return None
