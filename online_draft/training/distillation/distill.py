"""Offline distillation: the target answers prompts, heads learn from most answers, the others judge them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from online_draft.errors import ConfigError
from online_draft.models.artifact import load_drafter, new_drafter, save_drafter
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.registry.revision import git_revision
from online_draft.training.batches import Batches
from online_draft.training.distillation.answers import answers_key, make_answers
from online_draft.training.distillation.card import evaluate, versions, write_card
from online_draft.training.distillation.course import Course, CoursePlan, CourseState
from online_draft.training.distillation.distill_config import (
    DistillConfig,
    DistillPaused,
    DistillProgress,
    DistillReport,
    MethodReport,
)
from online_draft.training.distillation.prompts import hash_prompts, iterate_prompts, read_prompts
from online_draft.training.distillation.shards import AnswerShards
from online_draft.training.features import TokenRecord
from online_draft.training.replay import replayed_tau
from online_draft.training.token_lists import TokenLists
from online_draft.training.trainer import Trainer
from online_draft.training.vocabulary import choose_draft_vocab, emitted_tokens

__all__ = [
    "DistillConfig",
    "DistillPaused",
    "DistillProgress",
    "DistillReport",
    "MethodReport",
    "run",
    "split",
]

_HELD_OUT_SHARE = 0.05
_FINAL_RECORDS = 512
"""Held-out records that the finished drafter is judged on, at most."""

T = TypeVar("T")
Stop = Callable[[], object]


def run(
    config: DistillConfig,
    progress: Callable[[DistillProgress], None],
    loaded: LoadedTarget | None = None,
    stop: Stop = lambda: None,
    say: Callable[[str], None] = lambda line: None,
) -> DistillReport:
    """Distill one or more drafters. An interrupted run goes on where it was; see `DistillConfig.work`.

    `stop` is asked between two steps: "time" ends training and writes the drafter, anything else true raises
    DistillPaused with everything saved. `say` gets a line now and then. Raises ConfigError for a setting,
    TargetError for the target. Blocks for the whole run.
    """
    if loaded is None:
        loaded = load_target(config.target, config.device, getattr(torch, config.dtype))
    prompts = _tokenized(config, loaded)
    key = answers_key(loaded.fingerprint, prompts, config.answers)
    shards = make_answers(
        loaded,
        prompts,
        config.work_directory / f"answers-{key}",
        config.answers,
        lambda done, total: progress(DistillProgress("answer", "", done, total)),
        stop,
    )
    if stop():
        raise DistillPaused(
            f"stopped with {len(shards)} answers in {shards.directory}; run it again to go on"
        )
    numbers = [number for number in shards.numbers() if shards.lengths(number)[1] > 1]
    train, held_out = _split(numbers, lambda number: prompts[number])
    data = _Data(key, shards, train, held_out)
    reports = [_distill(config, method, loaded, data, progress, stop, say) for method in config.methods]
    return DistillReport(
        target=loaded.name,
        fingerprint=loaded.fingerprint,
        prompts=len(prompts),
        answer_tokens=sum(shards.lengths(number)[1] for number in shards.numbers()),
        held_out=len(held_out),
        methods=tuple(reports),
    )


def split(records: Sequence[TokenRecord]) -> tuple[list[TokenRecord], list[TokenRecord]]:
    """(train, held out) by a hash of the prompt, so that equal prompts stay together."""
    return _split(records, lambda record: record.prompt_ids)


@dataclass(frozen=True, slots=True)
class _Data:
    """Answers on disk; `train` and `held_out` are numbers of prompts."""

    key: str
    shards: AnswerShards
    train: list[int]
    held_out: list[int]

    def judges(self, most: int) -> tuple[list[TokenRecord], list[TokenRecord]]:
        """Held-out records to choose weights by, and others to judge the chosen ones by (or the same, where
        there are too few for both)."""
        count = min(most, -(-len(self.held_out) // 2))
        final = self.held_out[count : count + _FINAL_RECORDS] or self.held_out[:count]
        read = self.shards.read
        return [read(number) for number in self.held_out[:count]], [read(number) for number in final]


def _tokenized(config: DistillConfig, loaded: LoadedTarget) -> TokenLists:
    paths = config.prompt_paths
    conversations = (
        iterate_prompts(paths) if config.limit is None else iter(read_prompts(paths, config.limit))
    )
    return TokenLists(conversation.token_ids(loaded.tokenizer) for conversation in conversations)


def _split(items: Sequence[T], prompt: Callable[[T], tuple[int, ...]]) -> tuple[list[T], list[T]]:
    if len(items) < 2:
        raise ConfigError("prompts", f"{len(items)} answered prompts are too few to train and judge")
    hashed = sorted(((_prompt_hash(prompt(item)), place) for place, item in enumerate(items)))
    count = max(1, round(_HELD_OUT_SHARE * len(items)))
    while count < len(items) - 1 and hashed[count - 1][0] == hashed[count][0]:
        count += 1
    ranked = [items[place] for _, place in hashed]
    return ranked[count:], ranked[:count]


def _distill(
    config: DistillConfig,
    method: str,
    loaded: LoadedTarget,
    data: _Data,
    progress: Callable[[DistillProgress], None],
    stop: Stop,
    say: Callable[[str], None],
) -> MethodReport:
    shards = data.shards
    ids_D = _draft_vocab(config, loaded, shards)
    sizes = dict(config.sizes) if method == "amphista" else {}
    drafter = new_drafter(method, loaded.target, config.seed, draft_vocab=ids_D, **sizes)
    trainer_config = replace(
        config.trainer, decay_steps=config.trainer.decay_steps or config.steps, seed=config.seed
    )
    trainer = Trainer(drafter, loaded.target, trainer_config)
    lengths = [sum(shards.lengths(number)) for number in data.train]
    batches = Batches(lengths, config.batch, trainer_config.max_tokens, config.pack, config.seed)
    validation, final = data.judges(config.eval_records)
    options = {
        "answers": data.key,
        "steps": config.steps,
        "batch": config.batch,
        "pack": config.pack,
        "sizes": sizes,
        "draft_vocab": config.draft_vocab,
        "eval_every": config.eval_every,
        "eval_records": config.eval_records,
        "patience": config.patience,
        "nodes": config.nodes,
        "minutes": config.minutes,
        "dtype": config.dtype,
        "trainer": asdict(trainer_config),
    }
    course = Course(
        CoursePlan(config.steps, config.eval_every, config.patience, config.nodes, config.minutes),
        trainer,
        batches,
        lambda number: shards.read(data.train[number]),
        validation,
        _state_directory(config, method, options, say),
        config.pack,
    )

    def report(state: CourseState, done: int, total: int) -> None:
        tau = state.looks[-1][1] if state.looks else None
        progress(DistillProgress("train", method, done, total, state.loss, tau))

    finished = course.run(report, stop)
    if not finished and (stop() != "time" or not trainer.steps):
        raise DistillPaused(f"stopped at step {trainer.steps} of {config.steps}; run it again to go on")
    ended = course.state.ended or "time"
    progress(DistillProgress("evaluate", method, 0, len(final)))
    best = course.best()
    directory = config.drafter_directory(method)
    provenance = {
        "made_by": "distill",
        "prompts": hash_prompts(config.prompt_paths),
        "answers": {"key": data.key, **asdict(config.answers)},
        "records": {"train": len(data.train), "held_out": len(data.held_out)},
        "tokens": sum(shards.lengths(number)[1] for number in data.train),
        "steps": trainer.steps,
        "best_step": course.state.best_step,
        "ended": ended,
        "options": json.loads(json.dumps(options)),
        "trainer": asdict(trainer.config),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    save_drafter(best, directory, loaded.fingerprint, provenance)
    # Judged as stored: rounded to bfloat16.
    stored = load_drafter(directory, loaded.target, loaded.fingerprint)
    results = replayed_tau(stored, loaded.target, final, config.nodes)
    evaluation = evaluate(final, results, config.nodes, course.state.looks)
    brief = {name: evaluation[name] for name in ("tau", "nodes", "records")}
    manifest = save_drafter(stored, directory, loaded.fingerprint, {**provenance, "evaluation": brief})
    write_card(directory, loaded.name, manifest, evaluation)
    progress(DistillProgress("evaluate", method, len(final), len(final)))
    return MethodReport(
        method=method,
        directory=str(directory),
        tau=evaluation["tau"],
        steps=trainer.steps,
        loss=course.state.loss,
        train_seconds=course.seconds,
        parameters=sum(parameter.numel() for parameter in stored.parameters()),
        records=len(final),
        best_step=course.state.best_step,
        ended=ended,
        draft_vocab=0 if ids_D is None else len(ids_D),
    )


def _draft_vocab(config: DistillConfig, loaded: LoadedTarget, shards: AnswerShards) -> Tensor | None:
    counts = emitted_tokens(shards.outputs(), loaded.config.vocab_size)
    return choose_draft_vocab(counts, config.draft_vocab, loaded.config.eos_token_ids)


def _state_directory(
    config: DistillConfig, method: str, options: dict[str, Any], say: Callable[[str], None]
) -> Path:
    """Where training with these options keeps its state. Says so if it was last done with other ones."""
    text = json.dumps(options, sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    directory = config.work_directory / f"{method}-{name}"
    if directory.is_dir() and not config.resume:
        shutil.rmtree(directory)
    if not directory.is_dir():
        others = sorted(
            config.work_directory.glob(f"{method}-*/options.json"), key=lambda p: p.stat().st_mtime
        )
        for path in others[-1:]:
            before = json.loads(path.read_text())
            differing = [key for key in options if before.get(key) != json.loads(text)[key]]
            say(f"{method}: {', '.join(differing)} changed since {path.parent.name}; training starts anew")
        directory.mkdir(parents=True)
        (directory / "options.json").write_text(json.dumps(options, indent=2) + "\n")
    return directory


def _prompt_hash(prompt_ids: tuple[int, ...]) -> bytes:
    return hashlib.sha256(json.dumps(prompt_ids).encode()).digest()
