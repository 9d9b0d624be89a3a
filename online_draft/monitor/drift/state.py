"""What control says of drift, for the learner and for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import redis

from online_draft.core import SCHEMA_VERSION
from online_draft.errors import StoreError
from online_draft.monitor.drift.verdict import VerdictKind
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import pack, unpack


@dataclass(frozen=True, slots=True)
class DriftState:
    """One segment's. `at_ms` is its last sample's time, `alarm_ms` when the alarm was raised; Unix ms.

    Without samples, or without recent ones, the verdict is "unknown" and there is no alarm. Under an alarm
    it is "unknown" until enough samples came since the change. `figures` as `drift_verdict.as_figures`.
    """

    segment: str
    alarm: bool
    verdict: VerdictKind
    at_ms: int | None
    alarm_ms: int | None
    figures: Mapping[str, Any]


def publish_drift_states(
    client: redis.Redis, keys: RedisKeys, target: str, states: Iterable[DriftState]
) -> None:
    """Say all segments' states; they fade after `keys.drift_ttl_s`. StoreError when Redis can't be used."""
    packed = pack([SCHEMA_VERSION, [asdict(state) for state in states]])
    with redis_errors("publish drift"):
        client.set(keys.drift_states(target), packed, ex=keys.drift_ttl_s)


def read_drift_states(client: redis.Redis, keys: RedisKeys, target: str) -> dict[str, DriftState]:
    """States by segment; empty while nobody watches. StoreError when Redis can't be used."""
    with redis_errors("read drift"):
        data = cast("bytes | None", client.get(keys.drift_states(target)))
    if data is None:
        return {}
    try:
        schema, states = cast(Any, unpack(data, "drift"))
        if schema != SCHEMA_VERSION:
            raise StoreError(f"drift: schema {schema} is not {SCHEMA_VERSION}")
        return {state["segment"]: DriftState(**state) for state in states}
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"drift is not readable: {error}") from error


def alarmed(states: Mapping[str, DriftState]) -> tuple[str, ...]:
    """The segments with an alarm: what the learner should hurry for."""
    return tuple(sorted(name for name, state in states.items() if state.alarm))
