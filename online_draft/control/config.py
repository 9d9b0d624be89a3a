"""How the control loop behaves, and where. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from online_draft.errors import ConfigError
from online_draft.store import RedisKeys


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """Control looks at the journal every `poll_interval_s` and at the learner every `ping_every_s`. A learner
    that `max_missed` times in a row gave no answer within `ping_timeout_s` is started anew. `keep_versions`
    of the newest artifacts stay on the store beside those in use. Not `enabled`: nothing is promoted."""

    enabled: bool = True
    poll_interval_s: float = 0.5
    ping_every_s: float = 5.0
    ping_timeout_s: float = 10.0
    max_missed: int = 3
    keep_versions: int = 10

    def __post_init__(self) -> None:
        for name in ("poll_interval_s", "ping_every_s", "ping_timeout_s", "max_missed", "keep_versions"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"control.{name}", f"must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class ControlPlace:
    """The service that is controlled: its target's fingerprint, its artifact store and its Redis."""

    fingerprint: str
    store: str
    redis_url: str
    redis_prefix: str = "od"

    @property
    def keys(self) -> RedisKeys:
        """The Redis names of this service."""
        return RedisKeys(self.redis_prefix)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ControlPlace:
        """From a mapping that may say more than control needs."""
        return cls(**{entry.name: raw[entry.name] for entry in fields(cls) if entry.name in raw})
