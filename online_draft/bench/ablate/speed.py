"""What a drafter's steps take: the engine as it serves, one sequence, the same tree size at every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from online_draft.bench.ablate.data import AblateData
from online_draft.bench.ablate.options import AblateOptions
from online_draft.bench.ablate.rows import Row, RowSpec, read_row, write_row
from online_draft.bench.step.timing import PartTimer
from online_draft.core import GenerationRequest, SamplingParams, SpeculationCounts
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.amphista import Amphista
from online_draft.models.artifact import load_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget
from online_draft.models.native.backend import supports
from online_draft.models.native.build import kernels

_DEVICE = "cpu"


@dataclass(slots=True)
class _Run:
    """One pass over the prompts; `draft` and `step` are seconds of every step that drafted."""

    tokens: int
    seconds: float
    counts: SpeculationCounts
    draft: list[float]
    step: list[float]

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class SpeedMeter:
    """Measures drafters one after the other, each in turns with plain decoding on the same prompts."""

    def __init__(self, options: AblateOptions, loaded: LoadedTarget, data: AblateData) -> None:
        self._options = options
        self._loaded = loaded
        chosen = data.held_out[0.0][: options.speed_prompts]
        self._requests = [
            GenerationRequest(
                str(number), record.prompt_ids, SamplingParams(0.0, max_tokens=options.max_new_tokens)
            )
            for number, record in enumerate(chosen)
        ]
        self._compiled = options.kernels == "wait" and supports(loaded.target) and kernels.wait() is not None
        self._plain = self._engine(None)
        self._run(self._plain)

    def measure_all(
        self, specs: Sequence[RowSpec], progress: Callable[[int, int], None], stop: Callable[[], object]
    ) -> None:
        """Measure every finished row that was not measured in this way yet, and add it to the row's file."""
        work = self._options.work_directory
        for done, spec in enumerate(specs):
            progress(done, len(specs))
            row = read_row(spec.path(work))
            if stop() or row is None:
                continue
            measured = row.get("speed", {}).get("settings") == self._settings()
            if not measured or self._options.speed == "again":
                row["speed"] = self.measure(self._drafter(spec))
                write_row(spec.path(work), row)
        progress(len(specs), len(specs))

    def measure(self, drafter: Drafter) -> Row:
        """`tokens_per_second`, `speedup` over plain decoding (medians over repeats), τ, and milliseconds of
        a step and of its draft; nulls where the drafter can't serve."""
        if drafter.feature_layers:
            return {"settings": self._settings(), "kernels": None}
        engine = self._engine(drafter)
        self._run(engine, self._requests[:1])
        rates: list[float] = []
        ratios: list[float] = []
        plain_rates: list[float] = []
        draft: list[float] = []
        step: list[float] = []
        counts = SpeculationCounts()
        for repeat in range(self._options.repeat):
            order = (self._plain, engine) if repeat % 2 == 0 else (engine, self._plain)
            runs = {id(each): self._run(each) for each in order}
            plain, own = runs[id(self._plain)], runs[id(engine)]
            rates.append(own.rate)
            plain_rates.append(plain.rate)
            ratios.append(own.rate / plain.rate)
            draft += own.draft
            step += own.step
            counts.add(own.counts)
        return {
            "settings": self._settings(),
            "kernels": self._kernels(drafter),
            "tokens_per_second": round(median(rates), 1),
            "plain_tokens_per_second": round(median(plain_rates), 1),
            "speedup": round(median(ratios), 3),
            "tau": round(counts.committed / counts.steps, 4) if counts.steps else None,
            "draft_ms": round(1000 * median(draft), 4) if draft else None,
            "step_ms": round(1000 * median(step), 4) if step else None,
        }

    def _settings(self) -> list[Any]:
        o = self._options
        return [len(self._requests), o.max_new_tokens, o.repeat, o.threads, o.kernels, o.tree_nodes]

    def _kernels(self, drafter: Drafter) -> dict[str, str]:
        """Who computes what: the target's step and the heads; trees come with the target's."""
        heads = self._compiled and isinstance(drafter, Amphista) and drafter.config.compiled
        return {
            "target": "native" if self._compiled else "torch",
            "heads": "native" if heads else "torch",
        }

    def _drafter(self, spec: RowSpec) -> Drafter:
        directory = spec.drafter(self._options.work_directory)
        return load_drafter(directory, self._loaded.target, self._loaded.fingerprint)

    def _engine(self, drafter: Drafter | None) -> Engine:
        options = self._options
        config = EngineConfig(
            max_sequences=1,
            max_queue=len(self._requests),
            kv_tokens=self._loaded.config.max_position_embeddings + 64,
            tree_nodes=options.tree_nodes,
            prefix_cache=False,  # passes must not find the prompts of the one before
            speculation="always",
            ngram=False,  # the heads alone
            kernels=options.kernels,
            threads=options.threads,
        )
        engine = Engine(self._loaded, config)
        if drafter is not None:
            engine.set_drafter(drafter, "measured")
        return engine

    def _run(self, engine: Engine, requests: Sequence[GenerationRequest] | None = None) -> _Run:
        before = torch.get_num_threads()
        torch.set_num_threads(self._options.threads)
        try:
            return _timed(engine, self._requests if requests is None else requests)
        finally:
            torch.set_num_threads(before)


def _timed(engine: Engine, requests: Sequence[GenerationRequest]) -> _Run:
    timer = PartTimer(_DEVICE)
    run = _Run(0, 0.0, SpeculationCounts(), [], [])
    for request in requests:
        engine.add(request)
    engine.timer = timer
    begin = time.perf_counter()
    while engine.has_work:
        timer.start()
        for output in engine.step():
            run.tokens += len(output.token_ids)
            if output.counts is not None:
                run.counts.add(output.counts)
        timer.mark("deliver")
        if timer.parts["draft"] > 0:
            run.draft.append(timer.parts["draft"])
            run.step.append(sum(timer.parts.values()))
    run.seconds = time.perf_counter() - begin
    engine.timer = None
    return run
