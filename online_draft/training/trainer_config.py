"""How draft heads are trained."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.errors import ConfigError
from online_draft.training.losses import LOSS_KINDS, LossKind


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """How to train. The learning rate rises over `warmup_steps` and, if `decay_steps` is set, falls along a
    cosine to a twentieth at that step; a Markov term's tables, of which a step touches few rows, learn
    `markov_rate` times as fast. `anchors` positions a record are trained on; `ema` 0 is off. An update takes
    `accumulate` slices, as if all their records had been in one. Of a slice's anchors at most the part `trim`
    is left out, those whose losses lie far outside of the rest. `leash` bounds how far weights may move, in
    norms of those they began with; 0: not at all."""

    learning_rate: float = 4e-3
    markov_rate: float = 3.0
    warmup_steps: int = 20
    decay_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    anchors: int = 48
    max_tokens: int = 512
    depth_decay: float = 0.6
    loss: LossKind = "kl+ce"
    ema: float = 0.0
    seed: int = 0
    accumulate: int = 1
    trim: float = 0.0
    leash: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in LOSS_KINDS:
            raise ConfigError("trainer.loss", f"{self.loss!r} is not one of {', '.join(LOSS_KINDS)}")
        if not 0 <= self.ema < 1:
            raise ConfigError("trainer.ema", f"must be at least 0 and below 1, got {self.ema}")
        for name in ("learning_rate", "markov_rate", "clip_norm", "anchors", "max_tokens", "accumulate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"trainer.{name}", f"must be positive, got {getattr(self, name)}")
        if not 0 <= self.trim <= 0.5:
            raise ConfigError("trainer.trim", f"must lie between 0 and 0.5, got {self.trim}")
        for name in ("warmup_steps", "decay_steps", "weight_decay", "leash"):
            if getattr(self, name) < 0:
                raise ConfigError(f"trainer.{name}", f"must be at least 0, got {getattr(self, name)}")
