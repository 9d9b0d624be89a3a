"""Offline distillation: the target answers prompts, heads learn from most answers, the others judge them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from online_draft.errors import ArtifactError, ConfigError
from online_draft.models.artifact import KINDS, load_drafter, new_drafter, save_drafter
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.registry.revision import git_revision
from online_draft.training.answers import AnswerConfig, answer, answers_key
from online_draft.training.features import TokenRecord
from online_draft.training.prompts import read_prompts
from online_draft.training.replay import mean_accepted_length, replayed_tau
from online_draft.training.trainer import Trainer, TrainerConfig

_HELD_OUT_SHARE = 0.05
_SAVE_EVERY_S = 60.0
_TIMED_SLICES = 20
"""After so many slices a budget in minutes is turned into steps."""


@dataclass(frozen=True)
class DistillConfig:
    """One run of `distill`. With several methods each gets a directory of its own name below `out`.

    `steps` micro-batches of `batch` records, or as many as `minutes` a method allow if that is less (the
    learning rate's decay is shortened to fit; give `steps` alone to compare methods). `work` keeps answers
    and training state (default: beside `out`); the same answers serve every method and later run.
    `sizes` override Amphista's defaults. `resume` False starts training anew.
    """

    target: str
    prompts: Path
    out: Path
    methods: tuple[str, ...] = ("amphista",)
    steps: int = 1500
    minutes: float | None = None
    batch: int = 8
    limit: int | None = None
    answers: AnswerConfig = field(default_factory=AnswerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sizes: dict[str, Any] = field(default_factory=dict)
    nodes: int = 16
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
        for name in ("steps", "batch", "nodes"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")

    @property
    def work_directory(self) -> Path:
        """Where answers and training state lie."""
        return self.work if self.work is not None else self.out.with_name(self.out.name + ".work")

    def drafter_directory(self, method: str) -> Path:
        """Where a method's drafter goes."""
        return self.out if len(self.methods) == 1 else self.out / method


@dataclass(frozen=True, slots=True)
class DistillProgress:
    """`phase` is answer, train or evaluate; `loss` is a running mean while training."""

    phase: str
    method: str
    done: int
    total: int
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class MethodReport:
    """One trained drafter; `tau` is replayed on held-out answers with `nodes` nodes a tree."""

    method: str
    directory: str
    tau: float
    steps: int
    loss: float
    train_seconds: float
    parameters: int


@dataclass(frozen=True, slots=True)
class DistillReport:
    """What a run did; plain values by `dataclasses.asdict`."""

    target: str
    fingerprint: str
    prompts: int
    answer_tokens: int
    held_out: int
    methods: tuple[MethodReport, ...]


def run(
    config: DistillConfig, progress: Callable[[DistillProgress], None], loaded: LoadedTarget | None = None
) -> DistillReport:
    """Distill one or more drafters. An interrupted run goes on where it was; see `DistillConfig.work`.

    Raises ConfigError for a setting, TargetError for the target. Blocks for the whole run.
    """
    if loaded is None:
        loaded = load_target(config.target, config.device, getattr(torch, config.dtype))
    prompts = [c.token_ids(loaded.tokenizer) for c in read_prompts(config.prompts, config.limit)]
    key = answers_key(loaded.fingerprint, prompts, config.answers)
    records = answer(
        loaded,
        prompts,
        config.work_directory / f"answers-{key}",
        config.answers,
        lambda done, total: progress(DistillProgress("answer", "", done, total)),
    )
    train, held_out = split([record for record in records if len(record.output_ids) > 1])
    reports = [_distill(config, method, loaded, train, held_out, key, progress) for method in config.methods]
    return DistillReport(
        target=loaded.name,
        fingerprint=loaded.fingerprint,
        prompts=len(prompts),
        answer_tokens=sum(len(record.output_ids) for record in records),
        held_out=len(held_out),
        methods=tuple(reports),
    )


def split(records: Sequence[TokenRecord]) -> tuple[list[TokenRecord], list[TokenRecord]]:
    """(train, held out) by a hash of the prompt, so that equal prompts stay together."""
    if len(records) < 2:
        raise ConfigError("prompts", f"{len(records)} answered prompts are too few to train and judge")
    ranked = sorted(records, key=lambda record: _prompt_hash(record.prompt_ids))
    count = max(1, round(_HELD_OUT_SHARE * len(ranked)))
    while count < len(ranked) - 1 and ranked[count - 1].prompt_ids == ranked[count].prompt_ids:
        count += 1
    return ranked[count:], ranked[:count]


def _distill(
    config: DistillConfig,
    method: str,
    loaded: LoadedTarget,
    train: list[TokenRecord],
    held_out: list[TokenRecord],
    answers: str,
    progress: Callable[[DistillProgress], None],
) -> MethodReport:
    trainer = Trainer(
        new_drafter(method, loaded.target, config.seed, **(config.sizes if method == "amphista" else {})),
        loaded.target,
        replace(config.trainer, decay_steps=config.trainer.decay_steps or config.steps, seed=config.seed),
    )
    loss, seconds = _train(config, method, trainer, train, answers, progress)
    progress(DistillProgress("evaluate", method, 0, len(held_out)))
    directory = config.drafter_directory(method)
    provenance = {
        "made_by": "distill",
        "prompts_sha256": hashlib.sha256(config.prompts.read_bytes()).hexdigest(),
        "answers": {"key": answers, **asdict(config.answers)},
        "records": {"train": len(train), "held_out": len(held_out)},
        "tokens": sum(len(record.output_ids) for record in train),
        "steps": trainer.steps,
        "batch": config.batch,
        "trainer": asdict(trainer.config),
        "git_revision": git_revision(),
    }
    save_drafter(trainer.candidate(), directory, loaded.fingerprint, provenance)
    # Judged as stored: rounded to bfloat16.
    stored = load_drafter(directory, loaded.target, loaded.fingerprint)
    tau = mean_accepted_length(replayed_tau(stored, loaded.target, held_out, config.nodes))
    evaluation = {"tau": tau, "nodes": config.nodes, "records": len(held_out)}
    save_drafter(stored, directory, loaded.fingerprint, {**provenance, "evaluation": evaluation})
    progress(DistillProgress("evaluate", method, len(held_out), len(held_out)))
    parameters = sum(parameter.numel() for parameter in stored.parameters())
    return MethodReport(method, str(directory), tau, trainer.steps, loss, seconds, parameters)


def _train(
    config: DistillConfig,
    method: str,
    trainer: Trainer,
    records: list[TokenRecord],
    answers: str,
    progress: Callable[[DistillProgress], None],
) -> tuple[float, float]:
    """Train up to the budget; returns the running loss and the seconds of this run."""
    settings = json.dumps([answers, config.batch, config.sizes, asdict(trainer.config)], sort_keys=True)
    name = hashlib.sha256(settings.encode()).hexdigest()[:16]
    state = config.work_directory / f"{method}-{name}.safetensors"
    if config.resume and state.is_file():
        try:
            trainer.load(state)
        except ArtifactError:
            state.unlink()
    started = saved = time.monotonic()
    first, total = trainer.slices, config.steps
    loss = float("nan")
    try:
        while (at := trainer.slices) < total:
            if config.minutes is not None and at - first == _TIMED_SLICES:
                pace = (time.monotonic() - started) / _TIMED_SLICES
                total = min(total, first + max(_TIMED_SLICES + 1, int(60 * config.minutes / pace)))
                trainer.decay_by(total)
            chosen = Random(f"{config.seed}:{at}").sample(records, min(config.batch, len(records)))
            metrics = trainer.slice(chosen)
            if metrics.updated:
                loss = metrics.loss if loss != loss else 0.95 * loss + 0.05 * metrics.loss
            progress(DistillProgress("train", method, at + 1, total, loss))
            if time.monotonic() - saved > _SAVE_EVERY_S:
                trainer.save(state)
                saved = time.monotonic()
    finally:
        trainer.save(state)
    return loss, time.monotonic() - started


def _prompt_hash(prompt_ids: tuple[int, ...]) -> bytes:
    return hashlib.sha256(json.dumps(prompt_ids).encode()).digest()
