"""The measurement of `bench decode`: waves of prompts, every method on each wave."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from online_draft.bench.decode.audit import Audit
from online_draft.bench.decode.methods import Method, new_method
from online_draft.bench.decode.options import DEFAULT_PROMPTS, DecodeOptions
from online_draft.bench.decode.report import method_entry
from online_draft.bench.machine import machine_facts, prepare, synchronize
from online_draft.bench.progress import Bars
from online_draft.core import GenerationRequest, SamplingParams, SpeculationCounts
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.training.distillation.prompts import Conversation, read_prompts


@dataclass(slots=True)
class MethodRun:
    """What one method did; tokens and seconds per repeat. `changed` is None where nothing can be compared."""

    method: Method
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    near_ties: int = 0
    changed: int | None = 0

    @property
    def rates(self) -> list[float]:
        """Tokens per second of each repeat."""
        return [n / s if s else 0.0 for n, s in zip(self.tokens, self.seconds, strict=True)]

    def forget(self) -> None:
        """Drop what the warm-up counted."""
        self.tokens.clear()
        self.seconds.clear()
        self.method.counts = SpeculationCounts()


def measure(options: DecodeOptions, console: Console) -> dict[str, Any]:
    """Decode every prompt with every method, `repeat` times, in interleaved waves; the report."""
    options.check()
    dtype = prepare(options.device, options.dtype, options.threads)
    loaded = load_target(options.target, device=options.device, dtype=dtype)
    conversations = read_prompts(options.prompts or DEFAULT_PROMPTS, options.limit)
    runs = {name: MethodRun(new_method(name, options, loaded)) for name in options.methods}
    audit = Audit(options.target, options.device)
    orders = _orders(options)
    wave = max(8, 4 * options.batch)
    skipped = 0
    total, done = len(conversations) * options.repeat, 0
    with Bars(console) as bars:
        for repeat in range(-1, options.repeat):
            queue = deque(conversations if repeat >= 0 else conversations[: options.batch])
            for run in runs.values():
                run.tokens.append(0)
                run.seconds.append(0.0)
            while queue:
                batch = [queue.popleft() for _ in range(min(wave, len(queue)))]
                requests, kept = _requests(batch, loaded, options, repeat)
                skipped += len(batch) - len(kept)
                outputs: dict[str, list[list[int]]] = {}
                for name in next(orders):
                    outputs[name] = _timed(runs[name], requests, outputs.get("plain"), options.device)
                done += len(batch) if repeat >= 0 else 0
                bars.update("prompts", min(done, total), total)
                if repeat == 0 and "plain" in outputs:
                    _compare(runs, requests, outputs, audit)
                answers = outputs[options.methods[0]]
                following = (c.after(_text(loaded, a)) for c, a in zip(kept, answers, strict=True))
                queue.extend(c for c in following if c is not None)
            if repeat < 0:
                for run in runs.values():
                    run.forget()
    bases = {name: run.rates for name, run in runs.items()}
    return {
        "target": loaded.name,
        "device": options.device,
        "dtype": options.dtype,
        **machine_facts(options.device),
        "batch": options.batch,
        "temperature": options.temperature,
        "noise_ranked": options.noise_ranked,
        "prompts": len(conversations),
        "skipped": skipped,
        "repeat": options.repeat,
        "methods": {name: method_entry(name, run, bases) for name, run in runs.items()},
    }


def _orders(options: DecodeOptions) -> Iterator[list[str]]:
    """Who runs first takes turns, so that none always finds the caches as another left them.

    Plain decoding stays first where a synthetic drafter needs its answers.
    """
    fixed = ["plain"] if options.synthetic else []
    turning = deque(name for name in options.methods if name not in fixed)
    while True:
        yield [*fixed, *turning]
        turning.rotate(-1)


def _requests(
    batch: list[Conversation], loaded: LoadedTarget, options: DecodeOptions, repeat: int
) -> tuple[list[GenerationRequest], list[Conversation]]:
    """Tokenised requests, and the conversations that fit the context (the others are skipped).

    A tenant per repeat: prompts decoded in one repeat are no prefix hits in the next.
    """
    requests: list[GenerationRequest] = []
    kept: list[Conversation] = []
    for conversation in batch:
        ids = conversation.token_ids(loaded.tokenizer)
        room = loaded.config.max_position_embeddings - len(ids)
        if room < 2:
            continue
        sampling = SamplingParams(
            temperature=options.temperature,
            max_tokens=min(options.max_new_tokens, room),
            seed=zlib.crc32(repr(ids).encode()),
        )
        requests.append(GenerationRequest(str(len(requests)), ids, sampling, tenant=f"repeat {repeat}"))
        kept.append(conversation)
    return requests, kept


def _timed(
    run: MethodRun, requests: list[GenerationRequest], plain: list[list[int]] | None, device: str
) -> list[list[int]]:
    """Answer all requests; adds to the run's current repeat."""
    run.method.prepare(requests, plain)
    synchronize(device)
    begin = time.perf_counter()
    outputs = run.method.answer(requests)
    synchronize(device)
    run.seconds[-1] += time.perf_counter() - begin
    run.tokens[-1] += sum(map(len, outputs))
    return outputs


def _compare(
    runs: dict[str, MethodRun],
    requests: list[GenerationRequest],
    outputs: dict[str, list[list[int]]],
    audit: Audit,
) -> None:
    for name, run in runs.items():
        if not run.method.exact or run.changed is None:
            run.changed = None
            continue
        found = audit.differences(requests, outputs["plain"], outputs[name])
        run.near_ties += found["near_tie"]
        run.changed += found["changed"]


def _text(loaded: LoadedTarget, ids: list[int]) -> str:
    return str(loaded.tokenizer.decode(ids, skip_special_tokens=True))
