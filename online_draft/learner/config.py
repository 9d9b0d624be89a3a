"""How the learner behaves, and where it works. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from online_draft.buffer.reservoirs import ReservoirConfig
from online_draft.errors import ConfigError
from online_draft.store import RedisKeys

LearnerMode = Literal["idle", "dedicated", "off"]


@dataclass(frozen=True, slots=True)
class PaceConfig:
    """When and for how long the learner works.

    It works after `idle_ms` without a request on any replica, looks at their load before every slice, and
    sizes a slice to at most `slice_ms` (CPU time of its thread; wall time on CUDA). Without new records it
    stops after `passes` over those it has. A checkpoint is `checkpoint_every_s` of work old at most.
    """

    idle_ms: int = 300
    slice_ms: int = 200
    max_batch: int = 16
    passes: float = 12.0
    poll_ms: int = 25
    read_every_ms: int = 200
    checkpoint_every_s: float = 20.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            if not getattr(self, entry.name) > 0:
                raise ConfigError(
                    f"learner.pace.{entry.name}", f"must be positive, got {getattr(self, entry.name)}"
                )


@dataclass(frozen=True, slots=True)
class GateConfig:
    """When a candidate is looked at and what it must show.

    A look comes after `every_slices` slices at the earliest and needs `min_records` held-out records since
    the champion's promotion, `min_new_records` of them new since the last look; it replays the newest
    `max_records`. It passes with a gain of `min_gain` (of the champion's τ) whose lower confidence bound is
    above 0; `alpha` bounds the chance of a false pass over all looks while one champion serves. Refusals
    enter the journal at least `refuse_every_s` apart, a pause that doubles while the champion stays.
    """

    every_slices: int = 20
    min_records: int = 16
    min_new_records: int = 4
    max_records: int = 64
    min_gain: float = 0.01
    alpha: float = 0.05
    resamples: int = 2000
    refuse_every_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("every_slices", "min_records", "min_new_records", "resamples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learner.gate.{name}", f"{getattr(self, name)} is not an integer >= 1")
        if self.max_records < self.min_records:
            raise ConfigError("learner.gate.max_records", f"must be at least min_records, {self.min_records}")
        for name in ("min_gain", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(
                    f"learner.gate.{name}", f"must lie between 0 and 1, got {getattr(self, name)}"
                )


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """The learner's tunables. Mode `idle` yields to serving, `dedicated` never does (hardware of its own),
    `off` doesn't learn. The rest as in `training.TrainerConfig`."""

    mode: LearnerMode = "idle"
    pace: PaceConfig = field(default_factory=PaceConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    reservoirs: ReservoirConfig = field(default_factory=lambda: ReservoirConfig(held_out_fraction=0.2))
    learning_rate: float = 2e-3
    warmup_steps: int = 10
    anchors: int = 48
    max_tokens: int = 512
    ema: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in get_args(LearnerMode):
            raise ConfigError(
                "learner.mode", f"{self.mode!r} is not one of {', '.join(get_args(LearnerMode))}"
            )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> LearnerConfig:
        """Inverse of `dataclasses.asdict`."""
        nested = {
            "pace": PaceConfig(**raw["pace"]),
            "gate": GateConfig(**raw["gate"]),
            "reservoirs": ReservoirConfig(**raw["reservoirs"]),
        }
        return cls(**{**raw, **nested})


@dataclass(frozen=True, slots=True)
class LearnerPlace:
    """Where a learner works: the target and device it trains on, the artifact store, the directory of fetched
    drafters and the Redis it shares with serving, and the nodes of serving's draft trees."""

    target: str
    store: str
    cache_dir: str
    redis_url: str
    redis_prefix: str = "od"
    device: str = "cpu"
    tree_nodes: int = 16

    @property
    def keys(self) -> RedisKeys:
        """The Redis names of this service."""
        return RedisKeys(self.redis_prefix)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> LearnerPlace:
        """From a mapping that may say more than a learner needs."""
        return cls(**{entry.name: raw[entry.name] for entry in fields(cls) if entry.name in raw})
