"""`online-draft adapter train`: the target answers a segment's prompts, an adapter learns from that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from online_draft.errors import ConfigError
from online_draft.models.adapters.adapter import AdapterCard
from online_draft.models.adapters.files import read_adapter
from online_draft.models.artifact import base_digest, load_drafter
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.registry.revision import git_revision
from online_draft.training.adapters.train import AdapterTraining, evaluation, judge, train_adapter
from online_draft.training.distillation.answers import AnswerConfig, answer, answers_key
from online_draft.training.distillation.prompts import hash_prompts, read_prompts
from online_draft.training.features import TokenRecord

_HELD_OUT_SHARE = 0.15
"""More than a drafter's: an adapter has fewer prompts, and its gate needs enough of them."""


@dataclass(frozen=True)
class AdapterRun:
    """An adapter of `drafter` for the prompts whose domain is `segment`; goes to the directory `out`.

    `work` keeps the answers (default: beside `out`), which later runs use again.
    """

    drafter: Path
    segment: str
    prompts: tuple[Path, ...]
    out: Path
    target: str = "embedded"
    limit: int | None = None
    training: AdapterTraining = field(default_factory=AdapterTraining)
    answers: AnswerConfig = field(default_factory=AnswerConfig)
    device: str = "cpu"
    dtype: str = "float32"
    work: Path | None = None

    @property
    def work_directory(self) -> Path:
        """Where answers lie."""
        return self.work if self.work is not None else self.out.with_name(self.out.name + ".work")


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """What a run made; `tau` and `tau_without` are replayed on held-out answers of the segment."""

    segment: str
    directory: str
    tau: float
    tau_without: float
    better: bool
    reason: str
    held_out: int
    loss: float
    parameters: int


def run(
    config: AdapterRun,
    progress: Callable[[str, int, int, float | None], None] = lambda phase, done, total, loss: None,
    loaded: LoadedTarget | None = None,
    stop: Callable[[], object] = lambda: None,
) -> AdapterReport:
    """Answer, train, judge, write. Blocks; `progress(phase, done, total, loss)`.

    Raises ConfigError for a setting, TargetError for the target, ArtifactError for the drafter.
    """
    if loaded is None:
        loaded = load_target(config.target, config.device, getattr(torch, config.dtype))
    base = load_drafter(config.drafter, loaded.target, loaded.fingerprint)
    prompts = segment_prompts(config.prompts, config.segment, loaded, config.limit)
    key = answers_key(loaded.fingerprint, prompts, config.answers)
    records = answer(
        loaded,
        prompts,
        config.work_directory / f"answers-{key}",
        config.answers,
        lambda done, total: progress("answer", done, total, None),
    )
    train, held_out = divide([record for record in records if len(record.output_ids) > 1])
    card = AdapterCard(
        config.segment, base.kind, loaded.fingerprint, base_digest(base), config.drafter.resolve().name
    )
    losses: list[float] = []

    def show(done: int, total: int, loss: float) -> None:
        losses.append(loss)
        progress("train", done, total, loss)

    student = train_adapter(base, loaded.target, train, card, config.training, show, stop)
    provenance = {
        "made_by": "adapter train",
        "prompts": hash_prompts(config.prompts),
        "answers": {"key": key, **asdict(config.answers)},
        "records": {"train": len(train), "held_out": len(held_out)},
        "steps": len(losses),
        "training": asdict(config.training),
        "git_revision": git_revision(),
    }
    progress("evaluate", 0, len(held_out), None)
    numbers = judge(base, student.adapter(), loaded.target, held_out, config.training.nodes)
    student.save(
        config.out,
        replace(card, evaluation=evaluation(numbers, config.training.nodes), provenance=provenance),
    )
    read_adapter(config.out).check(base)
    progress("evaluate", len(held_out), len(held_out), None)
    return AdapterReport(
        segment=config.segment,
        directory=str(config.out),
        tau=numbers.tau_candidate,
        tau_without=numbers.tau_champion,
        better=numbers.passed,
        reason=numbers.reason,
        held_out=numbers.records,
        loss=losses[-1] if losses else float("nan"),
        parameters=sum(parameter.numel() for parameter in student.parameters()),
    )


def segment_prompts(
    paths: Sequence[Path], segment: str, loaded: LoadedTarget, limit: int | None = None
) -> list[tuple[int, ...]]:
    """Token ids of the prompts of one domain. ConfigError naming the domains that there are if it is none."""
    conversations = read_prompts(paths)
    chosen = [conversation for conversation in conversations if conversation.domain == segment]
    if not chosen:
        domains = sorted({conversation.domain for conversation in conversations})
        raise ConfigError("segment", f"no prompt has domain {segment!r}; there are {', '.join(domains[:20])}")
    return [conversation.token_ids(loaded.tokenizer) for conversation in chosen[:limit]]


def divide(records: Sequence[TokenRecord]) -> tuple[list[TokenRecord], list[TokenRecord]]:
    """(train, held out); equal prompts stay together, and what is held out is spread over the prompts."""
    prompts = list(dict.fromkeys(record.prompt_ids for record in records))
    if len(prompts) < 2:
        raise ConfigError("prompts", f"{len(prompts)} answered prompts are too few to train and judge")
    every = round(1 / _HELD_OUT_SHARE)
    held = set(prompts[every - 1 :: every] or prompts[-1:])
    train = [record for record in records if record.prompt_ids not in held]
    return train, [record for record in records if record.prompt_ids in held]
