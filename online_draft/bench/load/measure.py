"""The measurement of `bench load`: plain and speculative decoding under the same load, in turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from online_draft.bench.decode.methods import new_synthetic
from online_draft.bench.decode.options import DEFAULT_PROMPTS, NGRAM
from online_draft.bench.load.clients import LoadRun, drive
from online_draft.bench.load.options import TRACE_REQUESTS, LoadOptions
from online_draft.bench.load.report import AGAIN, MODES, Runs, load_report
from online_draft.bench.load.stalls import (
    ADMISSIONS,
    LONG_PROMPT,
    STREAMS,
    Stalls,
    check_room,
    measure_stalls,
)
from online_draft.bench.load.trace import read_trace
from online_draft.bench.load.work import Prompts, Work, apart, shortened
from online_draft.bench.machine import prepare
from online_draft.bench.progress import Bars
from online_draft.bench.synthetic import SyntheticDrafter
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.artifact import load_drafter
from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.training.distillation.prompts import read_prompts

_TRACE_SEQUENCES = 32
_WARM_UP_TOKENS = 16


@dataclass(slots=True)
class Engines:
    """Engines on one target, alike but for the drafter; two of them have none."""

    plain: Engine
    again: Engine
    speculative: Engine
    synthetic: SyntheticDrafter | None = None

    def run(self, mode: str, work: Sequence[Work], tenant: str, clients: int | None) -> LoadRun:
        """One run in one mode."""
        return drive(self.of(mode), apart(work, tenant, mode == "speculative"), clients)

    def of(self, mode: str) -> Engine:
        """The engine of a mode."""
        return {"plain": self.plain, AGAIN: self.again, "speculative": self.speculative}[mode]

    def teach(self, work: Iterable[Work]) -> None:
        """A synthetic drafter learns the answers: plain decoding gives them."""
        if self.synthetic is not None:
            work = list(work)
            at_once = [Work(w.request) for w in work]
            answers = self.run("plain", at_once, "answers", self.plain.config.max_sequences).answers
            self.synthetic.learn((w.request, answers[w.request.request_id]) for w in work)


def measure(options: LoadOptions, console: Console) -> dict[str, Any]:
    """Run every load in both modes, `repeat` times, in turns; the report."""
    options.check()
    dtype = prepare(options.device, options.dtype, options.threads)
    loaded = load_target(options.target, device=options.device, dtype=dtype)
    most = max((options.requests_at(clients) for clients in options.clients), default=TRACE_REQUESTS)
    prompts = Prompts(read_prompts(options.prompts or DEFAULT_PROMPTS, max(most, 64)), loaded)
    if options.long_prompt:
        check_room(prompts.context)
    with Bars(console) as bars:
        if options.trace is not None:
            runs = {"trace": _replay(options, loaded, prompts, bars)}
        else:
            runs = _closed(options, loaded, prompts, bars)
        stalls = _stalls(options, loaded, prompts, bars) if options.long_prompt else None
    return load_report(options, loaded.name, runs, stalls)


def _closed(options: LoadOptions, loaded: LoadedTarget, prompts: Prompts, bars: Bars) -> dict[str, Runs]:
    most = options.requests_at(max(options.clients))
    work = prompts.answering(most, options.max_new_tokens, options.temperature)
    engines = _engines(options, loaded, work, options.sequences or max(options.clients))
    engines.teach(work)
    runs: dict[str, Runs] = {}
    total = len(options.clients) * options.repeat
    for clients in options.clients:
        chosen = work[: options.requests_at(clients)]
        for mode in (*MODES, AGAIN):
            engines.run(mode, chosen, f"warm-up {clients}", clients)
        runs[str(clients)] = found = Runs()
        for repeat in range(options.repeat):
            for mode in _turns(repeat):
                tenant = f"{clients} clients, repeat {repeat}"
                found.add(mode, engines.run(mode, chosen, tenant, clients))
            bars.update("runs", (len(runs) - 1) * options.repeat + repeat + 1, total, f"{clients} clients")
    return runs


def _replay(options: LoadOptions, loaded: LoadedTarget, prompts: Prompts, bars: Bars) -> Runs:
    assert options.trace is not None
    arrivals = read_trace(options.trace, options.requests or TRACE_REQUESTS)
    work = prompts.replaying(arrivals, options.speedup, options.temperature)
    sequences = options.sequences or _TRACE_SEQUENCES
    engines = _engines(options, loaded, work, sequences)
    engines.teach(work)
    for mode in (*MODES, AGAIN):
        engines.run(mode, shortened(work[:sequences], _WARM_UP_TOKENS), "warm-up", sequences)
    found = Runs()
    for repeat in range(options.repeat):
        for mode in _turns(repeat):
            found.add(mode, engines.run(mode, work, f"repeat {repeat}", None))
        bars.update("replays", repeat + 1, options.repeat)
    return found


def _stalls(
    options: LoadOptions, loaded: LoadedTarget, prompts: Prompts, bars: Bars
) -> dict[str, list[Stalls]]:
    streams = prompts.streaming(STREAMS, options.temperature)
    engines = _engines(options, loaded, streams, STREAMS + 1)
    engines.teach(streams)
    found: dict[str, list[Stalls]] = {mode: [] for mode in MODES}
    for repeat in range(-1, options.repeat):
        begin = repeat * ADMISSIONS + STREAMS
        long_prompts = [prompts.text(begin + number, LONG_PROMPT) for number in range(ADMISSIONS)]
        for mode in _turns(repeat, MODES):
            running = apart(streams, f"long prompts, repeat {repeat}", mode != "plain")
            stalls = measure_stalls(engines.of(mode), running, long_prompts[: 1 if repeat < 0 else None])
            if repeat >= 0:
                found[mode].append(stalls)
        bars.update("long prompts", repeat + 1, options.repeat)
    return found


def _turns(repeat: int, modes: tuple[str, ...] = (*MODES, AGAIN)) -> tuple[str, ...]:
    """The modes; who goes first changes with every repeat."""
    first = repeat % len(modes)
    return modes[first:] + modes[:first]


def _engines(options: LoadOptions, loaded: LoadedTarget, work: Sequence[Work], sequences: int) -> Engines:
    longest = max(len(w.request.prompt_ids) + w.request.sampling.max_tokens for w in work)
    if options.long_prompt:
        longest = max(longest, LONG_PROMPT + 1)
    config = EngineConfig(
        max_sequences=sequences,
        max_queue=len(work),
        kv_tokens=sequences * (longest + options.tree_nodes + 32),
        step_rows=max(EngineConfig().step_rows, 2 * sequences),
        tree_nodes=options.tree_nodes,
        prefix_cache=False,  # repeats must not find the prompts of the one before
        speculation=options.speculation,
        ngram=not options.synthetic,
        kernels=options.kernels,
        threads=torch.get_num_threads(),
    )
    plain, again, speculative = (Engine(loaded, config) for _ in range(3))
    if options.drafter is not None and options.synthetic:
        return Engines(plain, again, speculative, new_synthetic(options.drafter, speculative, loaded))
    if options.drafter == NGRAM:
        return Engines(plain, again, speculative)
    path = DRAFTERS_DIR / "baseline" if options.drafter is None else Path(options.drafter)
    speculative.set_drafter(load_drafter(path, loaded.target, loaded.fingerprint), path.name)
    return Engines(plain, again, speculative)
