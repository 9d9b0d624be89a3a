"""Promise 1 on the embedded target in float32: no drafter, batch or swap changes an output."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Literal

import pytest
import torch

from online_draft.bench.decode import DEFAULT_PROMPTS
from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.audit import compare_outputs
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.artifact import load_drafter
from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.training.distillation.prompts import read_prompts

PROMPTS = 40
Kernels = Literal["wait", "off"]


@pytest.fixture(scope="module")
def loaded() -> LoadedTarget:
    return load_target("embedded")


@pytest.fixture(scope="module")
def loaded64() -> LoadedTarget:
    return load_target("embedded", dtype=torch.float64)


def outputs_of(engine: Engine, requests: list[GenerationRequest], before_step=None) -> dict[str, list[int]]:
    outputs: dict[str, list[int]] = {r.request_id: [] for r in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        if before_step is not None:
            before_step()
        for output in engine.step():
            outputs[output.request_id].extend(output.token_ids)
    engine.check_integrity()
    return outputs


@pytest.mark.parametrize("kernels", ["wait", "off"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_swaps_between_steps_change_no_output(
    loaded: LoadedTarget, loaded64: LoadedTarget, temperature: float, batch: int, kernels: Kernels
) -> None:
    conversations = read_prompts(DEFAULT_PROMPTS, PROMPTS)
    assert {c.domain for c in conversations} == {"sql", "math", "python", "story"}
    requests = []
    for index, conversation in enumerate(conversations):
        sampling = SamplingParams(temperature=temperature, max_tokens=64, seed=index)
        requests.append(GenerationRequest(str(index), conversation.token_ids(loaded.tokenizer), sampling))
    config = EngineConfig(max_sequences=batch, max_queue=PROMPTS, kernels=kernels, speculation="always")
    plain = outputs_of(Engine(loaded, config), [replace(r, speculate=False) for r in requests])
    names = ("baseline", "narrow", "medusa")
    drafters = [(n, load_drafter(DRAFTERS_DIR / n, loaded.target, loaded.fingerprint)) for n in names]
    engine = Engine(loaded, config)
    engine.set_drafter(drafters[0][1], drafters[0][0])
    rng = random.Random(7)
    swaps = 0

    def swap_sometimes() -> None:
        nonlocal swaps
        if rng.random() < 0.2:
            name, drafter = rng.choice([*drafters, (None, None)])
            engine.set_drafter(drafter, name)
            swaps += 1

    speculative = outputs_of(engine, requests, swap_sometimes)
    verdicts = [
        compare_outputs(loaded64.target, r, plain[r.request_id], speculative[r.request_id]) for r in requests
    ]
    assert swaps >= 20
    if batch == 1:
        assert engine.steps < 0.8 * sum(len(tokens) for tokens in plain.values())
    assert verdicts.count("changed") == 0
    assert verdicts.count("near_tie") <= 2


@pytest.mark.parametrize("kernels", ["wait", "off"])
def test_every_sampling_parameter_is_exact_but_for_rounding(
    loaded: LoadedTarget, loaded64: LoadedTarget, kernels: Kernels
) -> None:
    rng = random.Random(3)
    requests = []
    for index, conversation in enumerate(read_prompts(DEFAULT_PROMPTS, PROMPTS)):
        sampling = SamplingParams(
            temperature=rng.choice([0.0, 0.7, 1.0]),
            top_p=rng.choice([1.0, 0.9]),
            top_k=rng.choice([0, 0, 20]),
            max_tokens=48,
            seed=index,
            min_p=rng.choice([0.0, 0.05]),
            presence_penalty=rng.choice([0.0, 0.7]),
            frequency_penalty=rng.choice([0.0, 0.4]),
            repetition_penalty=rng.choice([1.0, 1.2]),
            logit_bias=rng.choice([(), ((300, 4.0), (301, -100.0))]),
            min_tokens=rng.choice([0, 30]),
            logprobs=rng.choice([None, 2]),
        )
        requests.append(GenerationRequest(str(index), conversation.token_ids(loaded.tokenizer), sampling))
    config = EngineConfig(max_sequences=8, max_queue=PROMPTS, kernels=kernels)
    plain = outputs_of(Engine(loaded, config), [replace(r, speculate=False) for r in requests])
    engine = Engine(loaded, config)
    engine.set_drafter(load_drafter(DRAFTERS_DIR / "baseline", loaded.target, loaded.fingerprint), "baseline")
    speculative = outputs_of(engine, requests)
    verdicts = [
        compare_outputs(loaded64.target, r, plain[r.request_id], speculative[r.request_id]) for r in requests
    ]
    assert verdicts.count("changed") == 0
    assert verdicts.count("near_tie") <= 2
