"""What `bench adapters` asks an engine: a mixed batch, and loading while streams run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from online_draft.bench.adapters.options import AdapterOptions
from online_draft.bench.decode.audit import Audit
from online_draft.core import GenerationRequest, SamplingParams, SpeculationCounts
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.adapters.adapter import Adapter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget
from online_draft.training.features import TokenRecord

Held = Mapping[str, Sequence[TokenRecord]]
_PER_SEGMENT = 8
_LOAD_AFTER = 12
"""Steps of the streams before an adapter is loaded."""


@dataclass(slots=True)
class _Run:
    outputs: list[list[int]]
    counts: dict[str, SpeculationCounts] = field(default_factory=dict)
    load_ms: float = 0.0
    rebuilt: int = 0

    def tau(self, segment: str) -> float:
        counts = self.counts[segment]
        return counts.committed / max(1, counts.steps)


def mixed_batch(
    options: AdapterOptions,
    loaded: LoadedTarget,
    base: Drafter,
    adapters: Mapping[str, Adapter],
    held: Held,
    audit: Audit,
) -> dict[str, Any]:
    """All segments in one batch: plain, with the shared drafter alone, and with every segment's adapter."""
    requests = [
        _request(f"{segment} {index}", segment, record, options)
        for index in range(_PER_SEGMENT)
        for segment, records in held.items()
        for record in records[index : index + 1]
    ]
    plain = _serve(_engine(options, loaded, None, len(requests)), requests)
    shared = _serve(_engine(options, loaded, base, len(requests)), requests)
    engine = _engine(options, loaded, base, len(requests))
    for segment, adapter in adapters.items():
        engine.adapters.load(segment, adapter)
    mixed = _serve(engine, requests)
    found = audit.differences(requests, plain.outputs, mixed.outputs)
    return {
        "requests": len(requests),
        "changed_outputs": found["changed"],
        "near_ties": found["near_tie"],
        "kernel": engine.kernel,
        "tau_shared": {segment: shared.tau(segment) for segment in held},
        "tau_adapters": {segment: mixed.tau(segment) for segment in held},
    }


def loading(
    options: AdapterOptions,
    loaded: LoadedTarget,
    base: Drafter,
    adapters: Mapping[str, Adapter],
    held: Held,
    audit: Audit,
) -> dict[str, Any]:
    """Streams of the first segment, while the second one's adapter is loaded: which of them noticed?"""
    first, second = list(adapters)[:2]
    records = held[first]
    requests = [
        _request(str(index), first, records[index % len(records)], options)
        for index in range(options.streams)
    ]

    def streams(load: bool) -> _Run:
        engine = _engine(options, loaded, base, len(requests))
        engine.adapters.load(first, adapters[first])
        spent = []

        def between(step: int) -> None:
            if load and step == _LOAD_AFTER:
                began = time.perf_counter()
                engine.adapters.load(second, adapters[second])
                spent.append(1000 * (time.perf_counter() - began))

        run = _serve(engine, requests, between)
        run.load_ms = sum(spent)
        run.rebuilt = engine.adapters.report()["reassigned"]
        return run

    quiet, busy = streams(False), streams(True)
    found = audit.differences(requests, quiet.outputs, busy.outputs)
    return {
        "streams": len(requests),
        "changed_outputs": found["changed"],
        "near_ties": found["near_tie"],
        "rebuilt": busy.rebuilt - quiet.rebuilt,
        "load_ms": round(busy.load_ms, 3),
    }


def _engine(options: AdapterOptions, loaded: LoadedTarget, drafter: Drafter | None, count: int) -> Engine:
    config = EngineConfig(
        max_sequences=count,
        tree_nodes=options.tree_nodes,
        speculation="always",
        ngram=False,
        kernels=options.kernels,
        threads=options.threads,
        adapter_rank=options.rank,
    )
    engine = Engine(loaded, config)
    engine.set_drafter(drafter, None if drafter is None else "base")
    return engine


def _request(name: str, segment: str, record: TokenRecord, options: AdapterOptions) -> GenerationRequest:
    sampling = SamplingParams(
        temperature=record.temperature, max_tokens=options.max_new_tokens, seed=record.seed
    )
    return GenerationRequest(name, record.prompt_ids, sampling, segment=segment)


def _serve(
    engine: Engine,
    requests: Sequence[GenerationRequest],
    between: Callable[[int], None] = lambda step: None,
) -> _Run:
    place = {request.request_id: index for index, request in enumerate(requests)}
    run = _Run([[] for _ in requests])
    for request in requests:
        engine.add(request)
        run.counts.setdefault(request.segment, SpeculationCounts())
    step = 0
    while engine.has_work:
        between(step)
        for output in engine.step():
            index = place[output.request_id]
            run.outputs[index] += output.token_ids
            if output.counts is not None:
                run.counts[requests[index].segment].add(output.counts)
        step += 1
    return run
