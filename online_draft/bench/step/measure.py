"""The measurement of `bench step`: single steps of the engine, and the floor beneath them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rich.console import Console

from online_draft.bench.decode.options import DEFAULT_PROMPTS
from online_draft.bench.load.work import Prompts
from online_draft.bench.machine import available_bytes, prepare
from online_draft.bench.progress import Bars
from online_draft.bench.step.floor import Floor, streamed_bytes
from online_draft.bench.step.options import StepOptions
from online_draft.bench.step.report import step_report
from online_draft.bench.step.shapes import check_memory, random_loaded, shape
from online_draft.bench.step.timing import PREFILL_ROWS, StepTimes, time_steps, tokens_needed
from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError
from online_draft.models.artifact import load_drafter, new_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.models.native.backend import NativeBackend, supports
from online_draft.models.native.build import kernels
from online_draft.training.distillation.prompts import read_prompts

_HEADS = 5
"""Draft heads of a target without trained ones."""


@dataclass(slots=True)
class Cell:
    """One kind of step: so many rows per sequence (1 is plain decoding) of so many sequences."""

    rows: int
    batch: int
    engine: Engine
    repeats: list[StepTimes] = field(default_factory=list)


def measure(options: StepOptions, console: Console) -> dict[str, Any]:
    """Time every kind of step and the floor, `repeat` times, in turns; the report."""
    options.check()
    dtype = prepare(options.device, options.dtype, options.threads)
    if options.random_init is not None:
        config = shape(options.random_init, options.layers)
        free = available_bytes(options.device)
        check_memory(config, dtype, options.device, _kv_tokens_in_all(options), free)
        loaded = random_loaded(config, dtype, options.device)
        drafter = new_drafter("amphista", loaded.target, num_heads=_HEADS)
    else:
        loaded = load_target(options.target, device=options.device, dtype=dtype)
        path = options.drafter or DRAFTERS_DIR / "baseline"
        drafter = load_drafter(path, loaded.target, loaded.fingerprint)
    needed = tokens_needed(options.steps, drafter.num_heads, max(options.batch) * options.context)
    limit = loaded.config.max_position_embeddings
    if options.context + needed > limit:
        raise ConfigError(
            "context", f"the target's is {limit}, and timing {options.steps} steps may take {needed} tokens"
        )
    floor = Floor(streamed_bytes(loaded.target), options.device)
    cells = [
        Cell(rows, batch, step_engine(loaded, drafter if rows > 1 else None, rows, batch, options))
        for batch in options.batch
        for rows in (1, *options.rows)
    ]
    requests = _requests(loaded, options, needed)
    floors: list[tuple[float, float]] = []
    stored_floors: list[tuple[float, float]] = []
    peaks: list[float] = []
    backend = _backend(loaded, options)
    stored = floor
    if backend is not None and backend.target.packing.half:
        stored = Floor(floor.nbytes * 2 // loaded.target.dtype.itemsize, options.device)
    with Bars(console) as bars:
        for repeat in range(-1, options.repeat):
            turn = (repeat + 1) % len(cells)
            for cell in (*cells[turn:], *cells[:turn]):
                # A tenant per repeat: with a prefix hit the drafter would see less context.
                fresh = [replace(request, tenant=f"repeat {repeat}") for request in requests[: cell.batch]]
                times = time_steps(cell.engine, fresh, options.steps, options.device)
                if repeat >= 0:
                    cell.repeats.append(times)
            if repeat >= 0:
                floors.append(floor.measure())
                stored_floors.append(floors[-1] if stored is floor else stored.measure())
                if backend is not None:
                    peaks.append(backend.peak())
            bars.update("repeats", repeat + 1, options.repeat)
    streamed = {floor.nbytes: floors, stored.nbytes: stored_floors}
    return step_report(options, loaded, cells, streamed, peaks)


def _backend(loaded: LoadedTarget, options: StepOptions) -> NativeBackend | None:
    """What the compiled steps run on, None where they don't."""
    library = kernels.wait() if options.kernels == "wait" and supports(loaded.target) else None
    return None if library is None else NativeBackend(library, loaded.target, torch.get_num_threads())


def step_engine(
    loaded: LoadedTarget, drafter: Drafter | None, rows: int, batch: int, options: StepOptions
) -> Engine:
    """An engine whose steps have exactly `rows` rows per sequence."""
    heads = _HEADS if drafter is None else drafter.num_heads
    config = EngineConfig(
        max_sequences=batch,
        max_queue=batch,
        kv_tokens=_kv_tokens(options, rows, batch, heads),
        prefill_rows=PREFILL_ROWS,
        prefill_rows_busy=PREFILL_ROWS,
        step_rows=PREFILL_ROWS + batch * rows,
        tree_nodes=rows - 1,
        tree_width=max(8, -(-(rows - 1) // heads)),
        speculation="always",
        ngram=False,
        kernels=options.kernels,
        threads=torch.get_num_threads(),
    )
    engine = Engine(loaded, config)
    if drafter is not None:
        engine.set_drafter(drafter, "measured")
    return engine


def _kv_tokens(options: StepOptions, rows: int, batch: int, heads: int) -> int:
    answer = tokens_needed(options.steps, heads, max(options.batch) * options.context)
    return batch * (options.context + answer + rows + 32)


def _kv_tokens_in_all(options: StepOptions) -> int:
    return sum(
        _kv_tokens(options, rows, batch, _HEADS) for batch in options.batch for rows in (1, *options.rows)
    )


def _requests(loaded: LoadedTarget, options: StepOptions, max_tokens: int) -> list[GenerationRequest]:
    """One request per sequence of the widest batch, each `context` tokens long: prompts, or random tokens."""
    count = max(options.batch)
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    if options.random_init is not None:
        rng = random.Random(0)
        vocab = loaded.config.vocab_size
        texts = [tuple(rng.randrange(vocab) for _ in range(options.context)) for _ in range(count)]
    else:
        prompts = Prompts(read_prompts(DEFAULT_PROMPTS, 64), loaded)
        texts = [prompts.text(index, options.context) for index in range(count)]
    return [GenerationRequest(str(index), text, sampling) for index, text in enumerate(texts)]
