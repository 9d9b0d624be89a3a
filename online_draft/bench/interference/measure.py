"""The measurement of `bench interference`: bursts of requests, while the learner is off, idle-mode, or owed a
floor share, in turns."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from online_draft.bench.decode.options import DEFAULT_PROMPTS
from online_draft.bench.interference.cpu_watch import (
    BEFORE_S,
    CpuWatch,
    off_after,
    taken_after,
    worked_before,
)
from online_draft.bench.interference.learner import LearnerProcess
from online_draft.bench.interference.options import InterferenceOptions
from online_draft.bench.interference.report import MODES, Turn, interference_report
from online_draft.bench.interference.serving import Serving
from online_draft.bench.load.work import Prompts
from online_draft.bench.machine import prepare
from online_draft.bench.progress import Bars
from online_draft.bench.swap.streams import Streams
from online_draft.buffer.records import record_of
from online_draft.buffer.writer import RecordWriter
from online_draft.core import GenerationRequest, Interaction
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.learner.config import LearnerConfig, LearnerPlace, PaceConfig
from online_draft.models.artifact import load_drafter
from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.monitor.counts import PLAIN
from online_draft.redis_server import PrivateRedis
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.serve.bootstrap import ensure_first_version
from online_draft.store import ArtifactStore
from online_draft.training.distillation.prompts import read_prompts

_LEARNERS = ("idle", "floor")
_ENDLESS = 10**6
"""Passes over the records: the learner never runs out of work."""
_JITTER = (0.75, 1.25)
"""Of a pause, so that bursts find the learner anywhere in a slice."""


def measure(options: InterferenceOptions, console: Console) -> dict[str, Any]:
    """Run all modes in turns; the report."""
    options.check()
    prepare("cpu", "float32", options.threads)
    loaded = load_target(options.target)
    path = options.drafter or DRAFTERS_DIR / "baseline"
    prompts = Prompts(read_prompts(options.prompts or DEFAULT_PROMPTS, options.records), loaded)
    made = prompts.answering(
        max(options.records, options.bursts * options.burst), options.max_new_tokens, 0.0
    )
    requests = [work.request for work in made]
    build = partial(_engine, options, loaded, path)
    turns: dict[str, list[Turn]] = {mode: [] for mode in MODES}
    with ExitStack() as stack:
        # A unix socket's path must be short.
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="od-bench-")))
        bars = stack.enter_context(Bars(console))
        redis = stack.enter_context(PrivateRedis(work / "redis"))
        records = _answers(build(), loaded, requests[: options.records])
        places = {mode: _place(options, loaded, path, work / mode, redis.url, mode) for mode in _LEARNERS}
        for place in places.values():
            _log(place, records)
        keys = [place.keys for place in places.values()]
        serving = stack.enter_context(Serving(build, redis.url, keys))
        learners: dict[str, LearnerProcess] = {}
        for mode, place in places.items():
            bars.update("learners", len(learners), len(places))
            share = options.floor_share if mode == "floor" else 0.0
            config = LearnerConfig(pace=PaceConfig(passes=_ENDLESS, floor_share=share))
            learner = stack.enter_context(LearnerProcess(place, config, work / f"{mode}.log"))
            learner.wait_until_training()
            learner.freeze()
            learners[mode] = learner
        bars.update("learners", len(learners), len(places))
        bursts = [requests[at : at + options.burst] for at in range(0, len(requests), options.burst)]
        rng = random.Random(0)
        for repeat in range(-1, options.repeat):
            first = (repeat + 1) % len(MODES)
            for mode in (*MODES[first:], *MODES[:first]):
                chosen = _of_turn(bursts[: options.bursts if repeat >= 0 else 1], f"{mode} {repeat}")
                turn = _turn(serving, chosen, options.pause_s, learners.get(mode), rng)
                if repeat >= 0:
                    turns[mode].append(turn)
            bars.update("repeats", repeat + 1, options.repeat)
        kernel = serving.kernel
    return interference_report(options, loaded.name, path.name, kernel, turns)


def _turn(
    serving: Serving,
    bursts: Sequence[Sequence[GenerationRequest]],
    pause_s: float,
    learner: LearnerProcess | None,
    rng: random.Random,
) -> Turn:
    turn = Turn()
    slices = 0
    if learner is not None:
        slices = learner.status().get("slices", 0)
        learner.thaw()
    try:
        for burst in bursts:
            time.sleep(pause_s * rng.uniform(*_JITTER) - BEFORE_S)
            # Without a learner our own process is watched, so that watching costs the same.
            with CpuWatch(os.getpid() if learner is None else learner.pid) as watch:
                time.sleep(BEFORE_S)
                admitted = time.monotonic()
                asyncio.run(serving.burst(burst, turn.latencies))
                turn.busy_s += time.monotonic() - admitted
            if learner is not None:
                turn.taken_s += taken_after(watch.samples, admitted)
                if worked_before(watch.samples, admitted):
                    turn.off_cpu_s.append(off_after(watch.samples, admitted))
        if learner is not None:
            turn.slices = learner.status().get("slices", 0) - slices
    finally:
        if learner is not None:
            learner.freeze()
    return turn


def _of_turn(bursts: Sequence[Sequence[GenerationRequest]], turn: str) -> list[list[GenerationRequest]]:
    """The same requests as another tenant's: nothing that was computed or remembered before helps."""
    return [[replace(request, tenant=turn) for request in burst] for burst in bursts]


def _engine(options: InterferenceOptions, loaded: LoadedTarget, path: Path) -> Engine:
    if options.threads is not None:
        torch.set_num_threads(options.threads)  # of the thread that it runs on
    config = EngineConfig(
        max_sequences=max(8, options.burst),
        kernels=options.kernels,
        threads=options.threads,
    )
    engine = Engine(loaded, config)
    engine.set_drafter(load_drafter(path, loaded.target, loaded.fingerprint), path.name)
    return engine


def _answers(
    engine: Engine, loaded: LoadedTarget, requests: Sequence[GenerationRequest]
) -> list[Interaction]:
    """Records of these requests, as serving would log them."""
    streams = Streams(engine, iter(requests), engine.config.max_sequences)
    streams.finish(no_more=False)
    return [
        record_of(one.request, loaded.fingerprint, one.token_ids, [1] * len(one.token_ids), (), (), PLAIN)
        for one in streams.answers
    ]


def _place(
    options: InterferenceOptions, loaded: LoadedTarget, path: Path, directory: Path, redis_url: str, mode: str
) -> LearnerPlace:
    """A registry of its own, with the drafter as champion, and its own names in Redis."""
    store = ArtifactStore(directory / "store")
    registry = DrafterRegistry(store, loaded.fingerprint)
    journal = DecisionJournal(store, loaded.fingerprint)
    ensure_first_version(loaded, registry, journal, str(path))
    return LearnerPlace(
        options.target, str(directory / "store"), str(directory / "cache"), redis_url, f"od-{mode}"
    )


def _log(place: LearnerPlace, records: Sequence[Interaction]) -> None:
    writer = RecordWriter(place.redis_url, place.keys, "bench")
    for record in records:
        writer.put(record)
    writer.close()
