"""Offline ceilings: drafters that were trained on one domain only."""

from __future__ import annotations

from pathlib import Path
from random import Random

from online_draft.bench.progress import Bars
from online_draft.bench.shift.options import ShiftOptions
from online_draft.models.artifact import load_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.embedded import domains
from online_draft.models.loading import LoadedTarget
from online_draft.training.distillation.answers import AnswerConfig, answer
from online_draft.training.distillation.prompts import Conversation
from online_draft.training.features import TokenRecord
from online_draft.training.packing import fitted_rows
from online_draft.training.trainer import Trainer, TrainerConfig

_SEED = 1
"""Apart from the traffic's."""


def ceilings(
    options: ShiftOptions, static: Drafter, loaded: LoadedTarget, work: Path, bars: Bars
) -> dict[str, Drafter]:
    """By domain: those given, and those trained here if that is asked for. ArtifactError for a directory that
    holds none of this target."""
    found = {
        domain: load_drafter(directory, loaded.target, loaded.fingerprint)
        for domain, directory in options.ceilings
    }
    if options.train_ceilings:
        for domain in options.order:
            if domain not in found:
                records = _answers(options, domain, loaded, work / domain, bars)
                found[domain] = train(options, static, loaded, records, domain, bars)
    return found


def train(
    options: ShiftOptions,
    static: Drafter,
    loaded: LoadedTarget,
    records: list[TokenRecord],
    domain: str,
    bars: Bars,
) -> Drafter:
    """Go on from the starting drafter, `ceiling_steps` updates on these records alone."""
    config = TrainerConfig(decay_steps=options.ceiling_steps, ema=0.9, seed=options.seed)
    trainer = Trainer(static.clone(), loaded.target, config)
    rng = Random(f"ceiling:{options.seed}:{domain}")
    for step in range(options.ceiling_steps):
        batch = rng.choices(records, k=options.slice_records)
        metrics = trainer.slice_packed(fitted_rows(batch, config.max_tokens))
        note = f"loss {metrics.loss:.2f}"
        bars.update(f"ceiling {domain}", step + 1, options.ceiling_steps, note)
    return trainer.candidate()


def _answers(
    options: ShiftOptions, domain: str, loaded: LoadedTarget, directory: Path, bars: Bars
) -> list[TokenRecord]:
    texts = domains.prompts(domain, options.ceiling_answers, _SEED, "train")
    prompts = [
        Conversation(({"role": "user", "content": text},)).token_ids(loaded.tokenizer) for text in texts
    ]
    config = AnswerConfig(options.max_new_tokens, (options.temperature,), seed=_SEED << 40)
    made = answer(
        loaded,
        prompts,
        directory,
        config,
        lambda done, total: bars.update(f"answers {domain}", done, total),
    )
    return [record for record in made if len(record.output_ids) > 1]
