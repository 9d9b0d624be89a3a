"""Outputs obey a token mask, and no drafter changes them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting.candidates import Candidates
from online_draft.decoding.engine import Engine
from online_draft.decoding.masks import MaskCursor, drop_forbidden
from online_draft.errors import RequestError


def tokens_of(steps: list[Any]) -> list[int]:
    return [token for step in steps for token in step.token_ids]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(["llama", "qwen2", "qwen3", "mistral"]), st.booleans())
def test_masked_and_free_requests_together_are_exact(
    tiny_target, recall_drafter, random_sampling, parentheses, steps_of, seed: int, family: str, tie: bool
) -> None:
    rng = random.Random(seed)
    loaded = tiny_target(family, tie)
    requests = []
    for index in range(4):
        mask = rng.choice([None, parentheses(), parentheses(end=None, deepest=2)])
        sampling = random_sampling(rng, rng.randint(1, 40))
        prompt = tuple(rng.randrange(256) for _ in range(rng.choice([1, 9])))
        requests.append((GenerationRequest(f"r{index}", prompt, sampling), mask))
    plain = steps_of(Engine(loaded), [(replace(r, speculate=False), mask) for r, mask in requests])
    texts = [list(r.prompt_ids) + tokens_of(plain[r.request_id]) for r, _ in requests]
    engine = Engine(
        loaded,
        EngineConfig(
            max_sequences=3,
            kv_tokens=rng.choice([80, 4096]),
            tree_nodes=10,
            speculation="always",
            kernels=rng.choice(["off", "wait"]),
        ),
    )
    engine.set_drafter(recall_drafter(texts, 0.9, seed), "recall")
    speculative = steps_of(engine, requests)
    for request, mask in requests:
        ours, expected = speculative[request.request_id], plain[request.request_id]
        assert tokens_of(ours) == tokens_of(expected)
        assert ours[-1].finish_reason == expected[-1].finish_reason
        if mask is not None:
            state = mask.start(())
            for token in tokens_of(ours)[:-1]:
                state = mask.advance(state, token)
            assert mask.allowed(state)[tokens_of(ours)[-1]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_that_is_complete_ends(
    tiny_target, recall_drafter, parentheses, steps_of, temperature
) -> None:
    loaded = tiny_target()
    sampling = SamplingParams(temperature=temperature, max_tokens=200, min_tokens=3, seed=1, ignore_eos=True)
    request = GenerationRequest("a", (1, 2, 3), replace(sampling, logit_bias=((8, 5.0),)))
    mask = parentheses(end=None)
    plain = steps_of(Engine(loaded), [(replace(request, speculate=False), mask)])["a"]
    engine = Engine(loaded, EngineConfig(tree_nodes=8, speculation="always"))
    engine.set_drafter(recall_drafter([[1, 2, 3, *tokens_of(plain), 5, 6]], 1.0, 0), "recall")
    steps = steps_of(engine, [(request, mask)])["a"]
    assert tokens_of(steps) == tokens_of(plain)
    assert steps[-1].finish_reason == plain[-1].finish_reason == "stop"
    text = "".join(step.text for step in steps)
    assert text[0] == "(" and text.count("(") == text.count(")")


def test_a_mask_that_allows_only_the_end_overrules_min_tokens(tiny_target, steps_of) -> None:
    class OnlyEnd:
        def start(self, prompt_ids: tuple[int, ...]) -> int:
            return 0

        def advance(self, state: int, token: int) -> int:
            return state + 1

        def allowed(self, state: int) -> torch.Tensor | None:
            if state < 2:
                return None
            return torch.arange(256) == 0

    request = GenerationRequest("a", (1,), SamplingParams(max_tokens=9, min_tokens=8))
    steps = steps_of(Engine(tiny_target()), [(request, OnlyEnd())])["a"]
    assert len(tokens_of(steps)) == 3 and tokens_of(steps)[-1] == 0
    assert steps[-1].finish_reason == "stop"


def test_a_mask_that_allows_nothing_is_refused(tiny_target, parentheses) -> None:
    class Nothing:
        def start(self, prompt_ids: tuple[int, ...]) -> None:
            return None

        def advance(self, state: None, token: int) -> None:
            raise AssertionError("nothing is allowed")

        def allowed(self, state: None) -> torch.Tensor:
            return torch.zeros(256, dtype=torch.bool)

    engine = Engine(tiny_target())
    with pytest.raises(RequestError) as refused:
        engine.add(GenerationRequest("a", (1,)), Nothing())
    assert refused.value.param == "token_mask" and not engine.has_work


def test_forbidden_nodes_are_dropped_with_everything_below_them(parentheses) -> None:
    mask = parentheses(end=0, deepest=1)
    opening, closing, digit = mask.opening, mask.closing, mask.digits[0]
    tokens = [opening, closing, digit, opening, closing, 0, digit, 0]
    parents = [-1, -1, 0, 0, 2, 4, 1, 5]
    trees = Candidates(
        tokens=[tokens, tokens],
        parents=[parents, parents],
        depths=[[1] * 8] * 2,
        values=[[0.5] * 8] * 2,
        heads=8,
    )
    kept = drop_forbidden(trees, [MaskCursor(mask, (), frozenset({0})), None])
    expected = [True, False, True, False, True, True, False, False]
    assert [value > 0 for value in kept.values[0]] == expected
    assert kept.values[1] == trees.values[0] == trees.values[1] == [0.5] * 8
    assert drop_forbidden(trees, [None, None]) is trees
