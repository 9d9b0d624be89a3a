"""One row of the table for one seed: train, store, judge; finished rows are files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from online_draft.bench.ablate.data import AblateData
from online_draft.bench.ablate.options import AblateOptions
from online_draft.bench.ablate.remembered import RememberedTarget
from online_draft.bench.ablate.variants import BASE, RECIPE, RECOMPUTED, SIZES, Variant, trained
from online_draft.errors import ArtifactError
from online_draft.models.artifact import load_drafter, new_drafter, save_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget
from online_draft.training.features import Features, TokenRecord, extract
from online_draft.training.replay import ReplayResult, mean_accepted_length, replay_features
from online_draft.training.trainer import Trainer, TrainerConfig

_BATCH = 64
"""Records replayed at a time."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowSpec:
    """A variant and a seed; `name` tells rows of other settings apart."""

    variant: Variant
    seed: int
    name: str

    def path(self, work: Path) -> Path:
        """The finished row."""
        return work / "rows" / f"{self.name}.json"

    def drafter(self, work: Path) -> Path:
        """The trained drafter."""
        return work / "drafters" / self.name


def row_specs(options: AblateOptions, data_key: str) -> list[RowSpec]:
    """All rows to train, a seed at a time, so that an unfinished table has whole columns first."""
    return [
        RowSpec(variant, seed, _name(options, variant, seed, data_key))
        for seed in range(options.seeds)
        for variant in trained(options.names)
    ]


def read_row(path: Path) -> Row | None:
    """A finished row, None if there is none or it can't be read."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) else None


def write_row(path: Path, row: Row) -> None:
    """Keep a row: complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


class RowMaker:
    """Makes rows one after the other on one loaded target."""

    def __init__(self, options: AblateOptions, loaded: LoadedTarget, data: AblateData) -> None:
        self._options = options
        self._loaded = loaded
        self._data = data
        self._target = RememberedTarget.of(loaded.target)

    def make(self, spec: RowSpec, progress: Callable[[int], None], stop: Callable[[], object]) -> Row | None:
        """Train and judge one row and keep it; `progress(steps)` after every step.

        When stopped its training is kept instead, and None returned.
        """
        options, variant = self._options, spec.variant
        sizes = variant.sizes_for(self._loaded.config)
        drafter = new_drafter(variant.method, self._loaded.target, spec.seed, **sizes)
        trainer = Trainer(drafter, self._target, _trainer_config(options, spec))
        training = self._train(spec, trainer, progress, stop)
        if training is None:
            return None
        directory = spec.drafter(options.work_directory)
        save_drafter(trainer.candidate(), directory, self._loaded.fingerprint, {"made_by": "bench ablate"})
        # Judged as stored: rounded to bfloat16.
        stored = load_drafter(directory, self._loaded.target, self._loaded.fingerprint)
        row = {
            "variant": variant.name,
            "seed": spec.seed,
            "parameters": sum(parameter.numel() for parameter in stored.parameters()),
            **training,
            **self._judge(stored),
        }
        if variant.name == BASE:
            row["recompute"] = {str(rows): self._judge(stored, rows) for rows in RECOMPUTED}
        write_row(spec.path(options.work_directory), row)
        self._state(spec).unlink(missing_ok=True)
        return row

    def _state(self, spec: RowSpec) -> Path:
        return self._options.work_directory / "training" / f"{spec.name}.safetensors"

    def _train(
        self, spec: RowSpec, trainer: Trainer, progress: Callable[[int], None], stop: Callable[[], object]
    ) -> dict[str, Any] | None:
        options, state = self._options, self._state(spec)
        if state.is_file():
            try:
                trainer.load(state)
            except ArtifactError:
                state.unlink()
        records = self._data.training(spec.variant.data)
        losses: list[float] = []
        seconds: list[float] = []
        while (at := trainer.slices) < options.steps:
            progress(at)
            if stop():
                state.parent.mkdir(parents=True, exist_ok=True)
                trainer.save(state)
                return None
            # The same draw for every variant of a seed.
            chosen = Random(f"{spec.seed}:{at}").sample(records, min(options.batch, len(records)))
            metrics = trainer.slice(chosen)
            seconds.append(metrics.seconds)
            if metrics.updated:
                losses.append(metrics.loss)
        progress(options.steps)
        last = losses[-20:]
        return {
            "steps": trainer.steps,
            "skipped": trainer.skipped,
            "loss": sum(last) / len(last) if last else None,
            "slice_ms": round(1000 * sorted(seconds)[len(seconds) // 2], 1) if seconds else None,
        }

    def _judge(self, drafter: Drafter, recompute: int | None = None) -> dict[str, Any]:
        """τ on all held-out answers and by temperature, trees ranked by probability alone; `recompute`: with
        the window's start cut."""
        counts: dict[str, Any] = {}
        results: list[ReplayResult] = []
        for heat, records in self._data.held_out.items():
            found: list[ReplayResult] = []
            for features in self._held_out(drafter, records):
                seen = features if recompute is None else start_late(features, recompute)
                # Noise belongs to positions, which `start_late` moves.
                found += replay_features(drafter, seen, self._options.tree_nodes, noise_ranked=False)
            counts[str(heat)] = round(mean_accepted_length(found), 4)
            results += found
        return {
            "tau": round(mean_accepted_length(results), 4),
            "tau_by_temperature": counts,
            "replayed": {
                "steps": sum(result.steps for result in results),
                "committed": sum(result.committed for result in results),
            },
        }

    def _held_out(self, drafter: Drafter, records: list[TokenRecord]) -> Iterator[Features]:
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            yield extract(self._target, batch, layers=drafter.feature_layers)


def start_late(features: Features, rows: int) -> Features:
    """As a prefix-cache hit leaves it: of each prompt the drafter knows the last `rows` positions only."""
    cut_B = (features.starts_B - rows).clamp(min=0)
    index_BT = torch.arange(features.tokens_BT.shape[1], device=cut_B.device) + cut_B.unsqueeze(1)
    index_BT = index_BT.clamp(max=features.tokens_BT.shape[1] - 1)
    row_B1 = torch.arange(len(cut_B), device=cut_B.device).unsqueeze(1)
    return Features(
        tokens_BT=features.tokens_BT[row_B1, index_BT],
        starts_B=features.starts_B - cut_B,
        lengths_B=features.lengths_B - cut_B,
        temperatures_B=features.temperatures_B,
        hidden_BTF=features.hidden_BTF[row_B1, index_BT],
        wide_BTX=None if features.wide_BTX is None else features.wide_BTX[row_B1, index_BT],
    )


def _trainer_config(options: AblateOptions, spec: RowSpec) -> TrainerConfig:
    return TrainerConfig(decay_steps=options.steps, seed=spec.seed, **{**RECIPE, **spec.variant.trainer})


def _name(options: AblateOptions, variant: Variant, seed: int, data_key: str) -> str:
    budget = [options.steps, options.batch, options.tree_nodes]
    settings = [asdict(variant), SIZES, RECIPE, seed, budget, data_key]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{variant.name}-{seed}-{digest[:8]}"
