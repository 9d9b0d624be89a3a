"""How the control loop behaves, and where. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from online_draft.errors import ConfigError
from online_draft.monitor.drift.config import DriftConfig
from online_draft.store import RedisKeys


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """Control looks at the journal every `poll_interval_s` and at the learner every `ping_every_s`. A learner
    that `max_missed` times in a row gave no answer within `ping_timeout_s` is started anew. `keep_versions`
    of the newest artifacts stay on the store beside those in use. Not `enabled`: nothing is promoted.

    A candidate drafts for `canary_share` of the sequences until `canary_requests` of them have ended, or for
    `canary_max_s`; if that was too little traffic, `canary_timeout` says what becomes of it. Share 0: no
    canary. After a promotion the previous champion keeps `watch_share` for `watch_s`, or for `watch_min_s`
    if the next candidate waits. Share 0: no watch. An arm is worse if τ is lower by the part `worse_by` and
    more than by chance (`worse_alpha`, over a whole canary or watch), on `worse_requests` in each arm at
    least. A replica may draft with other versions than decided for `stale_after_s`, then there is an alarm.
    So there is when the learner got on with nothing for `stalled_after_s` although it had something to do, or
    has yet to read more than `lag_records`. What is drift, `drift` says.
    """

    enabled: bool = True
    poll_interval_s: float = 0.5
    ping_every_s: float = 5.0
    ping_timeout_s: float = 10.0
    max_missed: int = 3
    keep_versions: int = 10
    canary_share: float = 0.1
    canary_requests: int = 30
    canary_max_s: float = 45.0
    canary_timeout: Literal["promote", "refuse"] = "promote"
    watch_share: float = 0.1
    watch_s: float = 600.0
    watch_min_s: float = 30.0
    worse_alpha: float = 0.05
    worse_by: float = 0.01
    worse_requests: int = 10
    stale_after_s: float = 30.0
    stalled_after_s: float = 1800.0
    lag_records: int = 10_000
    drift: DriftConfig = field(default_factory=DriftConfig)

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(f"control.{name}", f"must be positive, got {getattr(self, name)}")
        for name in ("canary_share", "watch_share"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise ConfigError(f"control.{name}", f"must be from 0 to 0.5, got {getattr(self, name)}")
        for name in ("worse_alpha", "worse_by"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"control.{name}", f"must be between 0 and 1, got {getattr(self, name)}")
        if self.canary_timeout not in ("promote", "refuse"):
            raise ConfigError(
                "control.canary_timeout", f"must be promote or refuse, got {self.canary_timeout!r}"
            )
        if self.watch_min_s > self.watch_s:
            raise ConfigError("control.watch_min_s", f"must be at most watch_s, {self.watch_s}")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ControlConfig:
        """Inverse of `dataclasses.asdict`."""
        return cls(**{**raw, "drift": DriftConfig(**raw["drift"])})


_POSITIVE = (
    "poll_interval_s", "ping_every_s", "ping_timeout_s", "max_missed", "keep_versions", "canary_requests",
    "canary_max_s", "watch_s", "watch_min_s", "worse_requests", "stale_after_s", "stalled_after_s",
    "lag_records",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ControlPlace:
    """The model that is controlled: the fingerprint of its target as configured, its artifact store, its
    realm of a Redis."""

    fingerprint: str
    store: str
    redis_url: str
    redis_prefix: str = "od"
    realm: str = ""

    @property
    def keys(self) -> RedisKeys:
        """The Redis names of this model."""
        return RedisKeys(self.redis_prefix, self.realm)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ControlPlace:
        """From a mapping that may say more than control needs."""
        return cls(**{entry.name: raw[entry.name] for entry in fields(cls) if entry.name in raw})
