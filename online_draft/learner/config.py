"""How the learner behaves, and where it works. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.errors import ConfigError
from online_draft.learner.adapters.config import AdaptersConfig
from online_draft.store import RedisKeys

LearnerMode = Literal["idle", "dedicated", "off"]
Features = Literal["local", "replica"]

_CPU_SLICE_MS = 200
_CUDA_SLICE_MS = 50


@dataclass(frozen=True, slots=True)
class PaceConfig:
    """When and for how long the learner works.

    It works after `idle_ms` without a request on any replica, looks at their load before every slice, and
    sizes a slice to at most `slice_ms` (CPU time of its thread; wall time on CUDA; None: 50 on CUDA, else
    200). A busy service leaves it `floor_share` of the time. Without new records it stops after `passes` over
    those it has. A checkpoint is `checkpoint_every_s` of work old at most.
    """

    idle_ms: int = 300
    slice_ms: int | None = None
    floor_share: float = 0.0
    max_batch: int = 16
    passes: float = 12.0
    poll_ms: int = 25
    read_every_ms: int = 200
    checkpoint_every_s: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.floor_share <= 0.9:
            raise ConfigError(
                "learner.pace.floor_share", f"must lie between 0 and 0.9, got {self.floor_share}"
            )
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name != "floor_share" and value is not None and not value > 0:
                raise ConfigError(f"learner.pace.{entry.name}", f"must be positive, got {value}")

    def limit_ms(self, device: str) -> int:
        """How long a slice may take on this type of device."""
        if self.slice_ms is not None:
            return self.slice_ms
        return _CUDA_SLICE_MS if device == "cuda" else _CPU_SLICE_MS


@dataclass(frozen=True, slots=True)
class GateConfig:
    """When a candidate is looked at and what it must show.

    A look comes after `every_slices` slices at the earliest and needs `min_records` held-out records since
    the champion's promotion, `min_new_records` of them new since the last look; it replays the newest
    `max_records`. It passes with a gain of `min_gain` (of the champion's τ) whose lower confidence bound is
    above 0; `alpha` bounds the chance of a false pass over all looks while one champion serves. It is blocked
    by a segment, or a tenant, with `segment_records` held-out records of any age (`guard_records` a segment
    are replayed) that loses more than `segment_loss` of τ, surely so at level `segment_alpha`. Refusals enter
    the journal at least `refuse_every_s` apart, a pause that doubles while the champion stays.
    """

    every_slices: int = 20
    min_records: int = 16
    min_new_records: int = 4
    max_records: int = 64
    min_gain: float = 0.01
    alpha: float = 0.05
    resamples: int = 2000
    segment_records: int = 16
    segment_loss: float = 0.01
    segment_alpha: float = 0.05
    guard_records: int = 32
    refuse_every_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("every_slices", "min_records", "min_new_records", "resamples", "segment_records"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learner.gate.{name}", f"{getattr(self, name)} is not an integer >= 1")
        if self.max_records < self.min_records:
            raise ConfigError("learner.gate.max_records", f"must be at least min_records, {self.min_records}")
        if self.guard_records < self.segment_records:
            raise ConfigError(
                "learner.gate.guard_records", f"must be at least segment_records, {self.segment_records}"
            )
        for name in ("min_gain", "alpha", "segment_loss", "segment_alpha"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(
                    f"learner.gate.{name}", f"must lie between 0 and 1, got {getattr(self, name)}"
                )


@dataclass(frozen=True, slots=True)
class RateConfig:
    """What multiplies the learning rate: `boost` for `boost_updates` after the traffic drifted (an alarm, or
    a loss that rose to `surprise` times its average); when quiet, half after every `half_life` updates, but
    never less than `floor`."""

    boost: float = 1.5
    boost_updates: int = 150
    surprise: float = 1.3
    half_life: int = 600
    floor: float = 0.25

    def __post_init__(self) -> None:
        for entry in fields(self):
            if not getattr(self, entry.name) > 0:
                raise ConfigError(
                    f"learner.rate.{entry.name}", f"must be positive, got {getattr(self, entry.name)}"
                )
        if self.surprise <= 1:
            raise ConfigError("learner.rate.surprise", f"must be above 1, got {self.surprise}")


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """The learner's tunables. Mode `idle` yields to serving, `dedicated` never does (hardware of its own),
    `off` doesn't learn. The target's hidden states come from a copy of its own (`features = "local"`), or
    from idle replicas (`replica`). After `max_bad_updates` one after the other that weren't finite, weights
    go back to their average. `gpu_memory_mb` bounds what it takes of a GPU (None: no bound). The rest as in
    `training.TrainerConfig`."""

    mode: LearnerMode = "idle"
    features: Features = "local"
    pace: PaceConfig = field(default_factory=PaceConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    reservoirs: ReservoirConfig = field(default_factory=lambda: ReservoirConfig(held_out_fraction=0.2))
    adapters: AdaptersConfig = field(default_factory=AdaptersConfig)
    learning_rate: float = 2e-3
    warmup_steps: int = 10
    anchors: int = 48
    max_tokens: int = 512
    ema: float = 0.9
    trim: float = 0.02
    leash: float = 2.0
    max_bad_updates: int = 5
    seed: int = 0
    gpu_memory_mb: int | None = None

    def __post_init__(self) -> None:
        if self.gpu_memory_mb is not None and self.gpu_memory_mb < 1:
            raise ConfigError("learner.gpu_memory_mb", f"{self.gpu_memory_mb} is not an integer >= 1")
        if self.max_bad_updates < 1:
            raise ConfigError("learner.max_bad_updates", f"{self.max_bad_updates} is not an integer >= 1")
        if self.features not in get_args(Features):
            raise ConfigError(
                "learner.features", f"{self.features!r} is not one of {', '.join(get_args(Features))}"
            )
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
            "rate": RateConfig(**raw["rate"]),
            "reservoirs": ReservoirConfig(**raw["reservoirs"]),
            "adapters": AdaptersConfig(**raw["adapters"]),
        }
        return cls(**{**raw, **nested})


@dataclass(frozen=True, slots=True)
class LearnerPlace:
    """Where a learner works: the target and device it trains on, the artifact store, the directory of fetched
    drafters and the Redis it shares with serving, serving's numbers and the nodes of its draft trees. Models
    of one service share a Redis: `realm` is this one's part of it, `neighbours` are the others'. `app` and
    `deployment` are Ray Serve's names of the replicas, for `features = "replica"`."""

    target: str
    store: str
    cache_dir: str
    redis_url: str
    redis_prefix: str = "od"
    device: str = "cpu"
    dtype: str = "float32"
    tree_nodes: int = 16
    realm: str = ""
    neighbours: tuple[str, ...] = ()
    app: str = ""
    deployment: str = ""

    @property
    def keys(self) -> RedisKeys:
        """The Redis names of this model."""
        return RedisKeys(self.redis_prefix, self.realm)

    @property
    def others(self) -> tuple[RedisKeys, ...]:
        """Those of the service's other models."""
        return tuple(RedisKeys(self.redis_prefix, realm) for realm in self.neighbours)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> LearnerPlace:
        """From a mapping that may say more than a learner needs."""
        return cls(**{entry.name: raw[entry.name] for entry in fields(cls) if entry.name in raw})
