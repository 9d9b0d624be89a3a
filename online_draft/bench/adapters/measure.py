"""The measurement of `bench adapters`: make the adapters, replay them, serve them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from online_draft.bench.adapters.options import EMBEDDED_BASE, AdapterOptions
from online_draft.bench.adapters.serving import loading, mixed_batch
from online_draft.bench.decode.audit import Audit
from online_draft.bench.machine import machine_facts, prepare
from online_draft.bench.progress import Bars
from online_draft.models.adapters.adapter import Adapter, AdapterCard
from online_draft.models.adapters.files import read_adapter
from online_draft.models.adapters.merge import merged
from online_draft.models.artifact import base_digest, load_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.embedded import domains
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.training.adapters.run import divide, segment_prompts
from online_draft.training.adapters.student import LoraSizes
from online_draft.training.adapters.train import AdapterTraining, evaluation, judge, train_adapter
from online_draft.training.distillation.answers import AnswerConfig, answer, answers_key
from online_draft.training.distillation.prompts import Conversation
from online_draft.training.features import TokenRecord
from online_draft.training.replay import mean_accepted_length, replayed_tau

_DRAFTERS = Path(domains.__file__).parent / "drafters"


def measure(options: AdapterOptions, work: Path, console: Console) -> dict[str, Any]:
    """The report. `work` keeps answers and adapters."""
    options.check()
    prepare("cpu", "float32", options.threads)
    loaded = load_target(options.target)
    directory = options.drafter or _DRAFTERS / EMBEDDED_BASE
    base = load_drafter(directory, loaded.target, loaded.fingerprint)
    with Bars(console) as bars:
        records = {segment: _answers(options, segment, loaded, work, bars) for segment in options.segments}
        halves = {segment: divide(own) for segment, own in records.items()}
        adapters: dict[str, Adapter] = {}
        for segment, (train, held_out) in halves.items():
            card = AdapterCard(segment, base.kind, loaded.fingerprint, base_digest(base), directory.name)
            adapters[segment] = _adapter(options, base, loaded, card, train, held_out, work, bars)
    held = {segment: half[1] for segment, half in halves.items()}
    audit = Audit(options.target, "cpu")
    return {
        "target": loaded.name,
        "drafter": directory.name,
        **machine_facts("cpu"),
        "rank": options.rank,
        "tree_nodes": options.tree_nodes,
        "segments": {
            segment: {
                **dict(adapters[segment].card.evaluation),
                "tau_by_adapter": _cross(base, adapters, loaded, held[segment], options.tree_nodes),
                "parameters": sum(
                    w.down_RI.numel() + w.up_OR.numel() for w in adapters[segment].weights.values()
                ),
            }
            for segment in options.segments
        },
        "mixed_batch": mixed_batch(options, loaded, base, adapters, held, audit),
        "loading": loading(options, loaded, base, adapters, held, audit),
    }


def _answers(
    options: AdapterOptions, segment: str, loaded: LoadedTarget, work: Path, bars: Bars
) -> list[TokenRecord]:
    if options.prompts is not None:
        prompts = segment_prompts((options.prompts,), segment, loaded, options.answers)
    else:
        texts = domains.prompts(segment, options.answers, seed=1)
        prompts = [
            Conversation(({"role": "user", "content": text},)).token_ids(loaded.tokenizer) for text in texts
        ]
    config = AnswerConfig(options.max_new_tokens, (0.0, 0.7))
    directory = work / f"answers-{answers_key(loaded.fingerprint, prompts, config)}"
    made = answer(
        loaded,
        prompts,
        directory,
        config,
        lambda done, total: bars.update(f"answer {segment}", done, total),
    )
    return [record for record in made if len(record.output_ids) > 1]


def _adapter(
    options: AdapterOptions,
    base: Drafter,
    loaded: LoadedTarget,
    card: AdapterCard,
    train: list[TokenRecord],
    held_out: list[TokenRecord],
    work: Path,
    bars: Bars,
) -> Adapter:
    """Trained, judged, written and read again."""
    training = AdapterTraining(
        options.steps, options.minutes, lora=LoraSizes(options.rank), nodes=options.tree_nodes
    )
    student = train_adapter(
        base,
        loaded.target,
        train,
        card,
        training,
        lambda done, total, loss: bars.update(f"train {card.segment}", done, total, f"loss {loss:.2f}"),
    )
    numbers = judge(base, student.adapter(), loaded.target, held_out, options.tree_nodes)
    directory = work / card.segment
    student.save(directory, replace(card, evaluation=evaluation(numbers, options.tree_nodes)))
    return read_adapter(directory)


@torch.inference_mode()
def _cross(
    base: Drafter,
    adapters: dict[str, Adapter],
    loaded: LoadedTarget,
    held_out: list[TokenRecord],
    nodes: int,
) -> dict[str, float]:
    """τ on one segment's held-out answers with each adapter, its own and the others'."""
    return {
        name: mean_accepted_length(replayed_tau(merged(base, adapter), loaded.target, held_out, nodes))
        for name, adapter in adapters.items()
    }
