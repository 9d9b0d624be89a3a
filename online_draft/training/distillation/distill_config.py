"""What a run of `distill` is told, and what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from online_draft.errors import ConfigError, OnlineDraftError
from online_draft.models.artifact import KINDS
from online_draft.training.distillation.answers import AnswerConfig
from online_draft.training.trainer_config import TrainerConfig

DTYPES = ("float32", "bfloat16", "float64")


@dataclass(frozen=True)
class DistillConfig:
    """One run of `distill`. With several methods each gets a directory of its own name below `out`.

    `steps` updates of `trainer.accumulate` micro-batches of `batch` rows (a row is a record, or with `pack`
    as many as fit in `trainer.max_tokens`); fewer if `minutes` a method allow no more (the learning rate's
    decay is shortened to fit; give `steps` alone to compare methods). `max_hours` end training wherever it
    is; the drafter is written, and the same run again goes on.

    Every `eval_every` updates `eval_records` held-out records are replayed; the best weights so far are kept,
    and after `patience` times without a better τ training ends. 0 turns either off.

    `work` keeps answers and training state (default: beside `out`); the same answers serve every method and
    later run. `sizes` override Amphista's defaults. `draft_vocab` is how many tokens the heads score: 0 all,
    None decides (`vocabulary.choose_draft_vocab`). `resume` False starts training anew.
    """

    target: str
    prompts: Path | Sequence[Path]
    out: Path
    methods: tuple[str, ...] = ("amphista",)
    steps: int = 1500
    minutes: float | None = None
    max_hours: float | None = None
    batch: int = 8
    pack: bool = False
    limit: int | None = None
    answers: AnswerConfig = field(default_factory=AnswerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sizes: dict[str, Any] = field(default_factory=dict)
    draft_vocab: int | None = None
    nodes: int = 16
    eval_every: int = 100
    eval_records: int = 64
    patience: int = 10
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    work: Path | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        if not self.methods or not set(self.methods) <= set(KINDS):
            raise ConfigError(
                "methods", f"must be of {', '.join(KINDS)}, got {', '.join(self.methods) or 'none'}"
            )
        if self.dtype not in DTYPES:
            raise ConfigError("dtype", f"must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ConfigError("device", f"must be cpu, cuda or cuda:N, got {self.device!r}") from error
        for name in ("steps", "batch", "nodes", "eval_records"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")
        for name in ("eval_every", "patience"):
            if getattr(self, name) < 0:
                raise ConfigError(name, f"must be at least 0, got {getattr(self, name)}")
        for name in ("minutes", "max_hours"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(name, f"must be positive, got {getattr(self, name)}")
        if not self.prompt_paths:
            raise ConfigError("prompts", "must name at least one file or directory")

    @property
    def prompt_paths(self) -> tuple[Path, ...]:
        """The prompt files and directories."""
        return (self.prompts,) if isinstance(self.prompts, Path) else tuple(self.prompts)

    @property
    def work_directory(self) -> Path:
        """Where answers and training state lie."""
        return self.work if self.work is not None else self.out.with_name(self.out.name + ".work")

    def drafter_directory(self, method: str) -> Path:
        """Where a method's drafter goes."""
        return self.out if len(self.methods) == 1 else self.out / method


class DistillPaused(OnlineDraftError):
    """A run was asked to stop. What it did is on disk, and the same run goes on from there."""


@dataclass(frozen=True, slots=True)
class DistillProgress:
    """`phase` is answer, train or evaluate; `loss` is a running mean while training, `tau` the last one
    replayed."""

    phase: str
    method: str
    done: int
    total: int
    loss: float | None = None
    tau: float | None = None


@dataclass(frozen=True, slots=True)
class MethodReport:
    """One trained drafter; `tau` is replayed on `records` held-out answers with `nodes` nodes a tree.

    `ended` is steps, patience or time (`max_hours`: there is more to train).
    """

    method: str
    directory: str
    tau: float
    steps: int
    loss: float
    train_seconds: float
    parameters: int
    records: int = 0
    best_step: int = 0
    ended: str = "steps"
    draft_vocab: int = 0


@dataclass(frozen=True, slots=True)
class DistillReport:
    """What a run did; plain values by `dataclasses.asdict`."""

    target: str
    fingerprint: str
    prompts: int
    answer_tokens: int
    held_out: int
    methods: tuple[MethodReport, ...]
