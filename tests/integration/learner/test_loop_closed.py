"""The whole loop in one process: served, logged, learnt, proved, promoted, swapped into a running engine."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from pathlib import Path
from typing import Any

from online_draft.core import GenerationRequest, Interaction, SamplingParams, SpeculationCounts
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.artifact import load_drafter
from online_draft.registry.wakeups import wait_for_wakeup
from online_draft.serve.lineup import install_lineup
from online_draft.serve.weights import WeightWatcher


def watcher(service: Any, engine: Engine) -> WeightWatcher[Any]:
    loaded = service.traffic.loaded

    def load(directory: Path) -> Any:
        return load_drafter(directory, loaded.target, loaded.fingerprint)

    return WeightWatcher(
        service.journal,
        service.registry,
        service.directory / "replica",
        load,
        partial(install_lineup, engine),
    )


def serve(engine: Engine, records: list[Interaction]) -> tuple[list[tuple[int, ...]], SpeculationCounts]:
    outputs: dict[str, list[int]] = {}
    counts = SpeculationCounts()
    for index, record in enumerate(records):
        sampling = SamplingParams(temperature=0.5, max_tokens=32, seed=record.seed, ignore_eos=True)
        engine.add(GenerationRequest(str(index), record.prompt_ids, sampling))
        outputs[str(index)] = []
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].extend(output.token_ids)
            counts.add(output.counts or SpeculationCounts())
    return [tuple(tokens) for tokens in outputs.values()], counts


def test_records_become_a_faster_drafter_that_changes_no_output(service: Any) -> None:
    config = EngineConfig(max_sequences=8, max_queue=200, tree_nodes=8, speculation="always")
    engine = Engine(service.traffic.loaded, config)
    weights = watcher(service, engine)
    weights.refresh()
    assert engine.drafter_version == "start"
    fresh = service.traffic.interactions(60, seed=7)
    outputs_before, before = serve(engine, fresh)

    service.serve(200)
    loop, control = service.learner(), service.control()
    decided = threading.Event()
    woken: list[str] = []

    def wait() -> None:
        while not woken:
            last_chance = decided.is_set()
            found = wait_for_wakeup(service.client, service.keys, "0", 1900)
            if found is not None:
                woken.append(found)
            elif last_chance:
                return

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        while service.state.promoted < 1:
            service.run(loop, lambda: service.state.candidate)
            control.tick()
    finally:
        decided.set()
        waiting.join()
    assert woken, "a decision wakes those who wait"

    weights.refresh()
    assert engine.drafter_version == service.state.champion != "start"
    outputs_after, after = serve(engine, fresh)
    assert after.committed / after.steps > 1.03 * before.committed / before.steps
    assert sum(a != b for a, b in zip(outputs_after, outputs_before, strict=True)) == 0
    assert outputs_after == [record.output_ids for record in fresh]


def test_the_loop_goes_round_more_than_once(service: Any) -> None:
    loop, control = service.learner(), service.control()
    seeds = itertools.count()

    def promoted(more_than: int, looks: list[int]) -> bool:
        control.tick()
        if loop.status()["looks"] > looks[-1]:
            # It was refused: the next look needs new records.
            looks.append(loop.status()["looks"])
            service.serve(60, seed=next(seeds))
        return bool(service.state.promoted > more_than)

    for turn in range(2):
        service.serve(150, seed=next(seeds))
        service.run(loop, partial(promoted, turn, [loop.status()["looks"]]), seconds=120)
    champion = service.state.champion
    assert service.registry.manifest(champion).provenance.parent == service.state.previous
    assert service.state.proposed == service.state.promoted >= 2
