"""Log-probabilities are the target's own, for accepted tokens and prompts too."""

from __future__ import annotations

import ctypes
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_draft.core import GenerationRequest, SamplingParams, TokenLogprobs
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.decoding.logprobs import PromptLogprobs, token_logprobs
from online_draft.models.loading import LoadedTarget


@torch.inference_mode()
def dense(loaded: LoadedTarget, tokens: list[int], top: int) -> list[TokenLogprobs]:
    """Of every token but the first, from one pass over all of them."""
    hidden = loaded.target.prefill_hidden(torch.tensor([tokens]), torch.tensor([len(tokens)]))
    logprobs = loaded.target.logits(hidden[0]).log_softmax(-1)
    expected = []
    for row, token in zip(logprobs.tolist(), tokens[1:], strict=False):
        order = sorted(range(len(row)), key=lambda index: -row[index])
        best = tuple((index, row[index]) for index in order[:top])
        expected.append(TokenLogprobs(token, row[token], order.index(token) + 1, best))
    return expected


def same(actual: TokenLogprobs | None, expected: TokenLogprobs) -> bool:
    assert actual is not None
    pairs = [(actual.logprob, expected.logprob)]
    pairs += [(a, e) for (_, a), (_, e) in zip(actual.top, expected.top, strict=True)]
    return (
        (actual.token_id, actual.rank) == (expected.token_id, expected.rank)
        and [token for token, _ in actual.top] == [token for token, _ in expected.top]
        and all(abs(a - e) < 1e-9 for a, e in pairs)
    )


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]), st.booleans())
def test_logprobs_are_raw_and_belong_to_their_tokens(
    tiny_target, recall_drafter, random_sampling, decode, steps_of, seed: int, family: str, tie: bool
) -> None:
    rng = random.Random(seed)
    loaded = tiny_target(family, tie)
    requests = []
    long = tuple(rng.randrange(256) for _ in range(150))
    for index in range(4):
        top, prompt_top = rng.choice([None, 0, 4]), rng.choice([None, 0, 3])
        sampling = replace(random_sampling(rng, 30), logprobs=top, prompt_logprobs=prompt_top)
        prompt = (
            long if rng.random() < 0.4 else tuple(rng.randrange(256) for _ in range(rng.choice([1, 2, 50])))
        )
        requests.append(GenerationRequest(f"r{index}", prompt, sampling))
    plain = decode(Engine(loaded), [replace(r, speculate=False) for r in requests])
    config = EngineConfig(
        prefill_rows=rng.choice([7, 100, 256]),
        kv_tokens=rng.choice([208, 4096]),
        tree_nodes=10,
        speculation="always",
        kernels=rng.choice(["off", "wait"]),
    )
    engine = Engine(loaded, config)
    texts = [list(r.prompt_ids) + plain[r.request_id] for r in requests]
    engine.set_drafter(recall_drafter(texts, 0.9, seed), "recall")
    steps = steps_of(engine, [(r, None) for r in requests])
    for request in requests:
        first, *later = steps[request.request_id]
        tokens = list(request.prompt_ids) + plain[request.request_id]
        prompt_top, top = request.sampling.prompt_logprobs, request.sampling.logprobs
        assert all(step.prompt_logprobs is None for step in later)
        if prompt_top is None:
            assert first.prompt_logprobs is None
        else:
            assert first.prompt_logprobs is not None
            none, *rest = first.prompt_logprobs
            expected = dense(loaded, list(request.prompt_ids), prompt_top)
            assert none is None
            assert all(same(a, e) for a, e in zip(rest, expected, strict=False))
            assert len(rest) == len(request.prompt_ids) - 1
        if top is None:
            assert all(step.logprobs is None for step in (first, *later))
        else:
            assert all(len(step.logprobs) == len(step.token_ids) for step in (first, *later))
            given_logprobs = [entry for step in (first, *later) for entry in step.logprobs]
            expected = dense(loaded, tokens, top)[len(request.prompt_ids) - 1 :]
            assert len(given_logprobs) == len(plain[request.request_id])
            assert all(same(a, e) for a, e in zip(given_logprobs, expected, strict=False))


def test_accepted_tokens_have_logprobs_too(tiny_target, recall_drafter, decode, steps_of) -> None:
    """Guards the property above against being vacuous."""
    loaded = tiny_target()
    request = GenerationRequest("a", (1, 2), SamplingParams(max_tokens=40, logprobs=1, ignore_eos=True))
    plain = decode(Engine(loaded), [replace(request, speculate=False)])
    engine = Engine(loaded, EngineConfig(tree_nodes=8, speculation="always"))
    engine.set_drafter(recall_drafter([[1, 2, *plain["a"]]], 1.0, 0), "recall")
    assert max(len(step.logprobs) for step in steps_of(engine, [(request, None)])["a"]) >= 4


def test_compiled_code_scores_prompts_by_itself(tiny_target, steps_of, library: ctypes.CDLL) -> None:
    """Torch's prepared weights, a second copy, are not made for it."""
    loaded = tiny_target()
    prompt = tuple(7 * index % 256 for index in range(150))
    request = GenerationRequest("a", prompt, SamplingParams(max_tokens=3, prompt_logprobs=2))
    engine = Engine(loaded, EngineConfig(prefill_rows=40, kernels="wait"))
    loaded.target.forget_prepared()
    first, *_ = steps_of(engine, [(request, None)])["a"]
    assert engine.kernel == "native"
    assert loaded.target._frozen is None
    expected = dense(loaded, list(prompt), 2)
    assert all(same(a, e) for a, e in zip(first.prompt_logprobs[1:], expected, strict=False))
    assert len(first.prompt_logprobs) == len(prompt)


def test_half_precision_is_summed_in_float32() -> None:
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)).bfloat16()
    for row, entry in zip(logits, token_logprobs(logits, [5, 6, 7], 2), strict=True):
        assert entry.logprob == pytest.approx(float(row.double().log_softmax(-1)[entry.token_id]), abs=1e-5)


def test_a_prompt_recomputed_after_a_preemption_is_scored_once() -> None:
    prompt = tuple(range(10))
    hidden = torch.eye(12, dtype=torch.float64)
    asked: list[int] = []

    def logits(hidden_NF: torch.Tensor) -> torch.Tensor:
        asked.extend(hidden_NF.argmax(-1).tolist())
        return hidden_NF

    collected = PromptLogprobs(prompt, 1)
    collected.take(0, hidden[:4], logits)
    assert collected.deliver() is None
    collected.take(0, hidden[:7], logits)
    collected.take(7, hidden[7:12], logits)
    assert asked == list(range(9))
    delivered: Any = collected.deliver()
    assert len(delivered) == 10 and collected.deliver() is None
    assert [entry.token_id for entry in delivered[1:]] == list(range(1, 10))
    collected.take(0, hidden, logits)
    collected.take(11, hidden[11:], logits)
    assert asked == list(range(9)) and collected.deliver() is None
