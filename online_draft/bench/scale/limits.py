"""From what one replica costs to what many do, and which of the things they share gives out first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from online_draft.bench.scale.options import ScaleOptions
from online_draft.control.config import ControlConfig
from online_draft.monitor.rollups.resolutions import RESOLUTIONS

MIB = 2**20

BUCKETS = sum(one.keep_s // one.seconds for one in RESOLUTIONS)
"""Parts of roll-ups that a replica has in Redis once it has been busy for a month."""

SERIES_S, SERIES_PATIENCE_S = 15 * 60, 10.0
"""The dashboard's finest series, and how long somebody waits for it."""

LOOKS_PER_S = 10
"""How often a learner that waits asks for the loads."""

CORE_SHARE = 0.7
"""Of a core, what is planned with."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that all replicas share. It takes `fixed` and `each` for every replica, of `capacity`; `at`
    so many replicas it is used up, and `then` happens."""

    what: str
    unit: str
    fixed: float
    each: float
    capacity: float
    then: str

    @property
    def at(self) -> int | None:
        """None when replicas add nothing."""
        return None if self.each <= 0 else max(0, int((self.capacity - self.fixed) / self.each + 1e-6))

    def used(self, replicas: int) -> float:
        """By so many replicas."""
        return self.fixed + self.each * replicas


def limits_of(report: Mapping[str, Any], options: ScaleOptions) -> list[Limit]:
    """All of them, the first to give out first. `report` has what was measured."""
    busy, crowd = report["busy"], report["crowd"]
    size, record = crowd["replicas"], report["intake"]["record_bytes"]
    stream_mb = 20_000 * (record + 150) / MIB
    control_s = ControlConfig().poll_interval_s
    memory = BUCKETS * report["rollups"]["bytes_a_part"] + report["hashes"]["bytes_a_replica"]
    memory += crowd["status_bytes"] + report["details_bytes"]
    memory += report["connections"]["each"] * report["connections"]["bytes"]
    found = [
        Limit("Redis: CPU", "share of a core", 0.0, busy["redis"]["cpu_us"] / 1e6, CORE_SHARE,
              "commands wait, then time out: records are spooled, counts come late, canaries wait"),
        Limit("Redis: memory", "MiB", stream_mb, memory / MIB, 0.9 * options.redis_mb,
              "writes are refused; writers halve the stream, counts and status come late"),
        Limit("Redis: connections", "connections", 64, report["connections"]["each"],
              report["connections"]["most"],
              "further replicas serve, but say and hear nothing (maxclients)"),
        Limit("learner: intake", "records/s", 0.0, options.rate, report["intake"]["per_s"] * CORE_SHARE,
              "the stream is trimmed before it is read, which is counted; a sample is learnt from"),
        Limit("learner: look at loads", "share of a core", 0.0,
              crowd["learner_look_ms"] / size / 1000 * LOOKS_PER_S, CORE_SHARE,
              "pieces of work start later"),
        Limit("learner: busy calls", "share of a core", 0.0,
              busy["busy_calls"] * report["bell"]["us_a_message"] / 1e6, CORE_SHARE,
              "it stops later for a request than it should"),
        Limit("control: look at replicas", "s", 0.0, crowd["control_look_ms"] / size / 1000, control_s,
              "decisions come later than every half second"),
        Limit("store: lookups and listings", "calls/s", 0.0, busy["store"]["calls"], options.store_ops,
              "a decision is noticed later"),
        Limit("dashboard: 15 min in seconds", "s", 0.0,
              SERIES_S * report["rollups"]["read_us_a_part"] / 1e6, SERIES_PATIENCE_S,
              "the page's first picture takes longer; `resolution=60` is 60 times cheaper"),
    ]  # fmt: skip
    return sorted(found, key=lambda limit: (limit.at is None, limit.at))


def as_table(limits: list[Limit], sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """For the JSON."""
    return [
        {**asdict(limit), "at": limit.at, "used": {str(size): round(limit.used(size), 3) for size in sizes}}
        for limit in limits
    ]


def fan_out(report: Mapping[str, Any], options: ScaleOptions, sizes: tuple[int, ...]) -> dict[str, Any]:
    """What a promotion of a drafter of 63 MiB (135M's) and of 1.1 GiB (8B's) has a shared store read, and the
    seconds that it takes for it, by number of nodes: one copy each."""
    rate = options.store_mb_s * 1e6
    drafters = {"63 MiB": 63 * MIB, "1.1 GiB": 1.1 * 1024 * MIB}
    return {
        "calls_a_replica": report["swap"]["calls_a_replica"],
        "seconds": {
            name: {str(size): round(size * length / rate, 1) for size in sizes}
            for name, length in drafters.items()
        },
    }
