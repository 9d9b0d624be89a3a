"""One adapter from the records of a segment, and the question whether it is better than none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

from online_draft.errors import ConfigError
from online_draft.models.adapters.adapter import Adapter, AdapterCard
from online_draft.models.adapters.merge import merged
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.training.adapters.student import AdapterStudent, LoraSizes
from online_draft.training.compare import GateNumbers, paired_bootstrap
from online_draft.training.features import Record
from online_draft.training.replay import replayed_tau
from online_draft.training.trainer import Trainer
from online_draft.training.trainer_config import TrainerConfig

_TIMED_STEPS = 10
"""After so many steps a budget in minutes is turned into steps."""


@dataclass(frozen=True, slots=True)
class AdapterTraining:
    """`steps` updates on `batch` records each, or as many as `minutes` allow if that is less; the learning
    rate's cosine fits. Judged with trees of `nodes` nodes."""

    steps: int = 300
    minutes: float | None = None
    batch: int = 8
    lora: LoraSizes = field(default_factory=LoraSizes)
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(learning_rate=4e-3, warmup_steps=10))
    nodes: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "nodes"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError("minutes", f"must be positive, got {self.minutes}")


def train_adapter(
    base: Drafter,
    target: Target,
    records: Sequence[Record],
    card: AdapterCard,
    config: AdapterTraining = AdapterTraining(),
    progress: Callable[[int, int, float], None] = lambda done, total, loss: None,
    stop: Callable[[], object] = lambda: None,
) -> AdapterStudent:
    """Learn what this segment needs other than the base has; the base stays as it is.

    `progress(done, total, loss)` after every step; `stop` is asked before each and ends training early.
    ConfigError without records, ArtifactError for a base that takes no adapters.
    """
    if not records:
        raise ConfigError("segment", f"no record to train on is of segment {card.segment!r}")
    student = AdapterStudent(base, card, replace(config.lora, seed=config.seed))
    trainer_config = replace(config.trainer, decay_steps=config.steps, seed=config.seed)
    trainer = Trainer(student, target, trainer_config)
    choose, started, total, loss = Random(config.seed), time.monotonic(), config.steps, math.nan
    while trainer.slices < total and not stop():
        if config.minutes is not None and trainer.slices == _TIMED_STEPS:
            pace = (time.monotonic() - started) / _TIMED_STEPS
            total = min(total, max(_TIMED_STEPS + 1, int(60 * config.minutes / pace)))
            trainer.decay_by(total)
        before = trainer.slices
        metrics = trainer.slice(choose.sample(records, min(config.batch, len(records))))
        if trainer.slices == before:
            raise ConfigError("segment", f"the records of {card.segment!r} are too short to learn from")
        if math.isfinite(metrics.loss):
            loss = metrics.loss if math.isnan(loss) else 0.95 * loss + 0.05 * metrics.loss
        progress(trainer.slices, total, loss)
    student.requires_grad_(False).eval()
    return student


def judge(
    base: Drafter,
    adapter: Adapter,
    target: Target,
    held_out: Sequence[Record],
    nodes: int = 16,
    **gate: Any,
) -> GateNumbers:
    """Is the base with the adapter better than without, on held-out records of its segment? As the gate of
    versions: replayed acceptance, paired bootstrap (`gate` goes to `paired_bootstrap`)."""
    with_adapter = replayed_tau(merged(base, adapter), target, held_out, nodes)
    without = replayed_tau(base, target, held_out, nodes)
    return paired_bootstrap(with_adapter, without, **gate)


def evaluation(numbers: GateNumbers, nodes: int) -> dict[str, Any]:
    """What a card says about how good an adapter is."""
    kept = ("gain", "lower_bound", "records", "passed", "reason")
    entry = {name: value for name, value in asdict(numbers).items() if name in kept}
    return {"tau": numbers.tau_candidate, "tau_without": numbers.tau_champion, "nodes": nodes, **entry}
