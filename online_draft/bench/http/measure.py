"""The measurement of `bench http`: a service over loopback and its engine alone, in turns."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from online_draft.bench.decode.options import DEFAULT_PROMPTS
from online_draft.bench.http.cpu_shares import read_times, spent
from online_draft.bench.http.encoding import encoding_us
from online_draft.bench.http.options import HttpOptions
from online_draft.bench.http.report import Runs, http_report
from online_draft.bench.http.service import Clients, settings_of
from online_draft.bench.load.clients import LoadRun, drive
from online_draft.bench.load.work import Prompts, Work
from online_draft.bench.machine import prepare
from online_draft.bench.progress import Bars
from online_draft.decoding.engine import Engine
from online_draft.launch import ChildSystem
from online_draft.models.artifact import load_drafter
from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.settings import Settings
from online_draft.training.distillation.prompts import read_prompts

_WARM_UPS = 2


def measure(options: HttpOptions, console: Console) -> dict[str, Any]:
    """Run both, `repeat` times, in turns; the report."""
    options.check()
    with ExitStack() as stack:
        stack.enter_context(pinned(options.cores))
        prepare("cpu", "float32", options.threads)
        loaded = load_target(options.target)
        prompts = Prompts(read_prompts(options.prompts or DEFAULT_PROMPTS, options.requests), loaded)
        work = prompts.answering(options.requests, options.max_new_tokens, options.temperature)
        state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="od-bench-")))
        settings = settings_of(options, state_dir)
        alone = _engine(loaded, settings)
        bars = stack.enter_context(Bars(console))
        console.print("starting the service")
        run = stack.enter_context(ChildSystem(settings))
        clients = stack.enter_context(Clients(run))
        runs = Runs()
        for repeat in range(-_WARM_UPS, options.repeat):
            found = _both(alone, clients, work, options.batch, run.pid, engine_first=repeat % 2 == 0)
            if repeat >= 0:
                runs.add(*found)
            bars.update("runs", max(0, repeat + 1), options.repeat)
        _first_tokens(alone, clients, prompts, options, runs)
        return http_report(options, loaded.name, runs, encoding_us(settings.target))


def _both(
    alone: Engine, clients: Clients, work: Sequence[Work], batch: int, service: int, engine_first: bool
) -> tuple[LoadRun, dict[str, Any], dict[str, float]]:
    ours = drive(alone, work, batch) if engine_first else None
    before = read_times(service)
    http = clients.ask(work, batch)
    parts = spent(before, read_times(service))
    return ours or drive(alone, work, batch), http, parts


def _first_tokens(
    alone: Engine, clients: Clients, prompts: Prompts, options: HttpOptions, runs: Runs
) -> None:
    """One request at a time, each once of the engine alone and once over HTTP."""
    for one in prompts.answering(options.first_tokens, 2, options.temperature):
        ours = drive(alone, [one], 1).ttft
        http = clients.ask([one], 1)["ttft_s"]
        if ours and http:
            runs.ttft_engine.append(ours[0])
            runs.ttft_http.append(http[0])


def _engine(loaded: LoadedTarget, settings: Settings) -> Engine:
    engine = Engine(loaded, replace(settings.engine, max_queue=4096))
    path = DRAFTERS_DIR / "baseline" if settings.drafter is None else Path(settings.drafter)
    engine.set_drafter(load_drafter(path, loaded.target, loaded.fingerprint), path.name)
    return engine


@contextmanager
def pinned(cores: Sequence[int] | None) -> Iterator[None]:
    """This process, and what it starts meanwhile, on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if cores is None else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
