"""The measurement of `bench swap`: plain decoding, the same under swaps on both paths, plainly again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from rich.console import Console

from online_draft.bench.decode.audit import Audit
from online_draft.bench.decode.options import DEFAULT_PROMPTS
from online_draft.bench.load.work import Prompts
from online_draft.bench.machine import prepare
from online_draft.bench.progress import Bars
from online_draft.bench.swap.options import SwapOptions
from online_draft.bench.swap.report import Checked, Passage, swap_report
from online_draft.bench.swap.streams import Answer, Step, Streams
from online_draft.bench.swap.swapping import Way, by_ladder, directly, swap_under_load
from online_draft.core import GenerationRequest
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.artifact import load_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.training.distillation.prompts import read_prompts


def measure(options: SwapOptions, console: Console) -> dict[str, Any]:
    """Run the streams plainly, with swaps, and plainly again; the report."""
    options.check()
    dtype = prepare(options.device, options.dtype, options.threads)
    loaded = load_target(options.target, device=options.device, dtype=dtype)
    prompts = Prompts(read_prompts(options.prompts or DEFAULT_PROMPTS, options.requests), loaded)
    made = prompts.answering(options.requests, options.max_new_tokens, options.temperature)
    requests = [work.request for work in made]
    paths = (options.drafter or DRAFTERS_DIR / "baseline", options.other or DRAFTERS_DIR / "narrow")
    names = (paths[0].name, paths[1].name if paths[1].name != paths[0].name else f"{paths[1].name}, other")

    def fetch(number: int) -> Drafter:
        return load_drafter(paths[number % 2], loaded.target, loaded.fingerprint)

    plain_engine = _engine(options, loaded, requests)
    ways: dict[str, Way] = {"direct": directly, "ladder": by_ladder}
    passages: dict[str, Passage] = {}
    with Bars(console) as bars:
        bars.update("plain decoding", 0, 2)
        expected, plain = decode_plainly(plain_engine, requests, options.streams)
        bars.update("plain decoding", 1, 2)
        for name, way in ways.items():
            engine = _engine(options, loaded, requests)
            streams = Streams(engine, again(requests), options.streams)

            def done(number: int, name: str = name) -> None:
                bars.update(f"swaps, {name}", number, options.swaps)

            stints = swap_under_load(engine, streams, fetch, options.swaps, options.steps, way, done)
            passages[name] = Passage(stints, streams)
        plain += decode_plainly(plain_engine, requests, options.streams)[1]
        bars.update("plain decoding", 2, 2)
    audit = Audit(options.target, options.device)
    direct, ladder = passages["direct"], passages["ladder"]
    checked = check(direct.streams, expected, audit) + check(ladder.streams, expected, audit)
    return swap_report(options, loaded.name, names, engine.kernel, direct, ladder, plain, checked)


def decode_plainly(
    engine: Engine, requests: Sequence[GenerationRequest], clients: int
) -> tuple[dict[int, list[int]], list[Step]]:
    """Answers by seed, and the steps that they took, without a drafter under the same load."""
    streams = Streams(engine, (replace(request, speculate=False) for request in requests), clients)
    steps = streams.finish(no_more=False)
    return {_seed(answer): answer.token_ids for answer in streams.answers}, steps


def again(requests: Sequence[GenerationRequest]) -> Iterator[GenerationRequest]:
    """The requests again and again, under new ids: their seeds are the same and fix their answers."""
    for turn in count():
        for request in requests:
            yield replace(request, request_id=f"{turn}:{request.request_id}")


def check(streams: Streams, expected: dict[int, list[int]], audit: Audit) -> Checked:
    """Every answer under swaps against plain decoding's of the same seed."""
    answers = streams.answers
    found = audit.differences(
        [answer.request for answer in answers],
        [expected[_seed(answer)] for answer in answers],
        [answer.token_ids for answer in answers],
    )
    return Checked(len(answers) + streams.failed, streams.failed, found["changed"], found["near_tie"])


def _seed(answer: Answer) -> int:
    return answer.request.sampling.seed


def _engine(options: SwapOptions, loaded: LoadedTarget, requests: Sequence[GenerationRequest]) -> Engine:
    longest = max(len(request.prompt_ids) + request.sampling.max_tokens for request in requests)
    config = EngineConfig(
        max_sequences=options.streams,
        kv_tokens=options.streams * (longest + options.tree_nodes + 32),
        step_rows=max(EngineConfig().step_rows, (options.tree_nodes + 2) * options.streams),
        tree_nodes=options.tree_nodes,
        prefix_cache=False,  # requests come again
        speculation="always",
        ngram=False,  # knows the answers of requests that come again
        kernels=options.kernels,
        threads=torch.get_num_threads(),
    )
    return Engine(loaded, config)
