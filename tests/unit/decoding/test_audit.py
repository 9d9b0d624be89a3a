"""The audit excuses what rounding can do and nothing else."""

from __future__ import annotations

import random

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.audit import TOLERANCE, compare_outputs, reachable_tokens
from online_draft.decoding.engine import Engine
from online_draft.decoding.noise import gumbel
from online_draft.decoding.processors import Processors
from online_draft.decoding.sampling import choose


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_whatever_rounding_makes_of_the_choice_is_reachable(random_sampling, seed: int) -> None:
    """Logits on a coarse grid, so that ties and thresholds are hit often; errors within the tolerance."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    sampling = random_sampling(rng, 40, 40)
    request = GenerationRequest("a", tuple(rng.choices(range(40), k=5)), sampling)
    processors = Processors(request, frozenset({0}))
    for token in rng.choices(range(40), k=rng.randrange(5)):
        processors.push(token)
    logits = (torch.randn(40, generator=generator, dtype=torch.float64) * 4).round()
    noise = gumbel([rng.getrandbits(62)], torch.arange(40))[0].double()
    reachable = reachable_tokens(logits, sampling, noise, processors)
    assert choose(logits, sampling, noise, processors) in reachable
    for _ in range(10):
        error = (torch.rand(40, generator=generator, dtype=torch.float64) - 0.5) * TOLERANCE / 4
        assert choose(logits + error, sampling, noise, processors) in reachable


def test_clear_choices_have_one_reachable_token() -> None:
    logits = torch.arange(10.0, dtype=torch.float64)
    noise = torch.zeros(10, dtype=torch.float64)
    for sampling in (
        SamplingParams(temperature=0.0),
        SamplingParams(top_p=0.5),
        SamplingParams(min_p=1.0),
        SamplingParams(top_k=1),
        SamplingParams(top_k=3, top_p=0.9, min_p=0.01),
    ):
        assert reachable_tokens(logits, sampling, noise) == {9}
    request = GenerationRequest("a", (1,), SamplingParams(temperature=0.0, logit_bias=((2, 50.0),)))
    processors = Processors(request, frozenset())
    assert reachable_tokens(logits, request.sampling, noise, processors) == {2}


def test_outputs_of_processed_requests_are_compared(tiny_target, random_sampling, decode) -> None:
    loaded = tiny_target()
    rng = random.Random(4)
    requests = [GenerationRequest(f"r{i}", (i, 5, 9), random_sampling(rng, 20)) for i in range(20)]
    outputs = decode(Engine(loaded), requests)
    for request in requests:
        right = outputs[request.request_id]
        assert compare_outputs(loaded.target, request, right, right) == "none"
        wrong = [*right[:-1], (right[-1] + 1) % 256]
        assert compare_outputs(loaded.target, request, right, wrong) == "changed"
        assert compare_outputs(loaded.target, request, right, right[:-1]) == "changed"
