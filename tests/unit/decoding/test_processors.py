"""Every sampling parameter means what it means in vLLM, with any drafter. float64, zero tolerance."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.choices import TargetChoices
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.decoding.noise import gumbel, noise_key
from online_draft.decoding.processors import Processors, processors_for
from online_draft.decoding.runners.base import Rows
from online_draft.decoding.sampling import choose
from online_draft.decoding.sequence import Sequence
from online_draft.models.loading import LoadedTarget
from online_draft.models.medusa import Medusa, MedusaConfig

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def vllm_token(
    logits: Tensor, params: SamplingParams, prompt: list[int], output: list[int], eos: set[int], noise: Tensor
) -> int:
    """One token as vLLM's sampler chooses it: its steps in its order, dense, with our noise for its draw."""
    vocab = logits.shape[0]
    if len(output) < params.min_tokens:
        for token in eos | set(params.stop_token_ids):
            logits[token] = -torch.inf
    for token, bias in params.logit_bias:
        logits[token] += bias
    output_counts = torch.bincount(torch.tensor(output, dtype=torch.int64), minlength=vocab)
    prompt_counts = torch.bincount(torch.tensor(prompt), minlength=vocab)
    penalty = torch.where((prompt_counts > 0) | (output_counts > 0), params.repetition_penalty, 1.0)
    logits = torch.where(logits > 0, logits / penalty, logits * penalty)
    logits -= params.frequency_penalty * output_counts
    logits -= params.presence_penalty * (output_counts > 0)
    if params.temperature == 0:
        return int(logits.argmax())
    logits = logits / params.temperature
    if params.min_p > 0:
        probabilities = logits.softmax(-1)
        logits[probabilities < probabilities.max() * params.min_p * (1 - 1e-12)] = -torch.inf
    ordered, index = logits.sort(descending=False)
    if params.top_k > 0:
        ordered[ordered < ordered[vocab - min(params.top_k, vocab)]] = -torch.inf
    if params.top_p < 1:
        drop = ordered.softmax(-1).cumsum(-1) <= 1 - params.top_p
        drop[-1] = False
        ordered[drop] = -torch.inf
    return int((torch.empty_like(logits).scatter_(0, index, ordered) + noise).argmax())


@torch.inference_mode()
def vllm_output(loaded: LoadedTarget, request: GenerationRequest) -> list[int]:
    """The whole output, the target run over everything before each token."""
    params, prompt, output = request.sampling, list(request.prompt_ids), list[int]()
    eos = set(loaded.config.eos_token_ids)
    stops = set(params.stop_token_ids) | (set() if params.ignore_eos else eos)
    while len(output) < params.max_tokens and not (output and output[-1] in stops):
        tokens = torch.tensor([prompt + output])
        hidden = loaded.target.prefill_hidden(tokens, torch.tensor([tokens.shape[1]]))
        logits = loaded.target.logits(hidden[0, -1:])[0].clone()
        key = noise_key(params.seed, request.prompt_index, request.choice_index, tokens.shape[1])
        noise = gumbel([key], torch.arange(logits.shape[0]))[0].double()
        output.append(vllm_token(logits, params, prompt, output, eos, noise))
    return output


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(FAMILIES), st.booleans())
def test_any_combination_gives_vllms_tokens_plain_and_speculative(
    tiny_target, recall_drafter, random_sampling, decode, seed: int, family: str, tie: bool
) -> None:
    rng = random.Random(seed)
    loaded = tiny_target(family, tie)
    requests = []
    for index in range(2):
        prompt = tuple(rng.randrange(256) for _ in range(rng.choice([1, 5, 30])))
        sampling = replace(random_sampling(rng, rng.randint(1, 30)), stop=())
        requests.append(GenerationRequest(f"r{index}", prompt, sampling, choice_index=index))
    expected = {r.request_id: vllm_output(loaded, r) for r in requests}
    assert decode(Engine(loaded), [replace(r, speculate=False) for r in requests]) == expected
    engine = Engine(
        loaded,
        EngineConfig(
            kv_tokens=rng.choice([96, 4096]),
            tree_nodes=12,
            speculation="always",
            kernels=rng.choice(["off", "wait"]),
        ),
    )
    texts = [list(r.prompt_ids) + expected[r.request_id] for r in requests]
    engine.set_drafter(recall_drafter(texts, rng.choice([0.7, 1.0]), seed), "recall")
    assert decode(engine, requests) == expected


EACH: list[dict[str, Any]] = [
    {"min_p": 0.1}, {"presence_penalty": 1.5}, {"frequency_penalty": 0.7}, {"repetition_penalty": 1.4},
    {"logit_bias": ((7, 6.0), (9, -100.0))}, {"min_tokens": 30, "stop_token_ids": tuple(range(1, 60))},
]  # fmt: skip


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("change", EACH, ids=lambda change: next(iter(change)))
def test_each_parameter_changes_the_output_and_deep_walks_stay_exact(
    tiny_target, recall_drafter, decode, change: dict[str, Any], temperature: float
) -> None:
    """Guards the property above against being vacuous."""
    loaded = tiny_target()
    base = SamplingParams(temperature=temperature, max_tokens=60, seed=5, ignore_eos=True)
    bare = {name: value for name, value in change.items() if name == "stop_token_ids"}
    request = GenerationRequest("a", (1, 2, 3), replace(base, **change))
    plain = decode(Engine(loaded), [replace(request, speculate=False)])
    without = decode(Engine(loaded), [replace(request, speculate=False, sampling=replace(base, **bare))])
    if not ("min_p" in change and temperature == 0):
        assert plain != without
    engine = Engine(loaded, EngineConfig(tree_nodes=8, speculation="always"))
    engine.set_drafter(recall_drafter([[1, 2, 3, *plain["a"]]], 1.0, 0), "recall")
    assert decode(engine, [request]) == plain
    assert engine.steps < 0.7 * len(plain["a"]) + 2


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_generation_resumes_behind_emitted_tokens_with_any_parameters(
    tiny_target, random_sampling, parentheses, steps_of, seed: int
) -> None:
    rng = random.Random(seed)
    loaded = tiny_target("qwen3")
    mask = rng.choice([None, parentheses()])
    request = GenerationRequest("a", tuple(range(10)), random_sampling(rng, 24))
    engine = Engine(loaded)
    drafter = Medusa(MedusaConfig(loaded.config.hidden_size, loaded.config.vocab_size, window=1)).double()
    drafter.start_from(loaded.target)
    engine.set_drafter(drafter, "v")
    whole = [t for step in steps_of(engine, [(request, mask)])["a"] for t in step.token_ids]
    if len(whole) > 1:
        cut = rng.randrange(1, len(whole))
        again = replace(request, emitted=tuple(whole[:cut]))
        rest = [t for step in steps_of(engine, [(again, mask)])["a"] for t in step.token_ids]
        assert whole[:cut] + rest == whole


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_processors_made_anew_from_the_tokens_are_the_same(random_sampling, seed: int) -> None:
    rng = random.Random(seed)
    sampling = random_sampling(rng, 40)
    request = GenerationRequest("a", tuple(rng.choices(range(256), k=20)), sampling)
    grown = Processors(request, frozenset({0}))
    tokens = list(request.prompt_ids)
    for _ in range(rng.randrange(40)):
        logits = torch.randn(256, generator=torch.Generator().manual_seed(rng.getrandbits(32)))
        untouched = logits.clone()
        made = Processors(request, frozenset({0}))
        made.catch_up(tokens)
        assert torch.equal(grown.apply(logits), made.apply(logits))
        assert torch.equal(logits, untouched)
        tokens.append(rng.randrange(256))
        grown.push(tokens[-1])


def test_only_requests_that_need_it_are_processed_row_by_row(byte_tokenizer) -> None:
    def lazy(emitted: tuple[int, ...] = (), **changes: Any) -> bool:
        request = GenerationRequest("a", (1,), SamplingParams(**changes), emitted)
        return Sequence(request, byte_tokenizer, frozenset({0})).lazy

    assert not lazy(temperature=0.0, top_p=0.5, top_k=3, min_p=0.5)
    assert not lazy(stop=("a",), stop_token_ids=(4,), logprobs=5, prompt_logprobs=5)
    assert lazy(min_tokens=2) and lazy((7,), min_tokens=2) and not lazy((7, 8), min_tokens=2)
    for change in EACH:
        assert lazy(**change)
    assert processors_for(GenerationRequest("a", (1,)), frozenset()) is None


def test_a_stop_string_counts_only_behind_min_tokens(tiny_target, byte_tokenizer, decode, steps_of) -> None:
    """One completed within the first tokens is text; one that begins there and ends later stops."""
    loaded = tiny_target()
    bias = ((byte_tokenizer.convert_tokens_to_ids("a"), 100.0),)
    for stop, min_tokens, expected in [("a", 0, 1), ("a", 4, 5), ("aaa", 2, 3), ("aaa", 3, 4), ("b", 3, 9)]:
        sampling = SamplingParams(0.0, max_tokens=9, min_tokens=min_tokens, stop=(stop,), logit_bias=bias)
        outputs = steps_of(Engine(loaded), [(GenerationRequest("a", (3,), sampling), None)])["a"]
        assert sum(len(output.token_ids) for output in outputs) == expected
        text = "".join(output.text for output in outputs)
        assert text == "a" * (expected if stop == "b" else expected - len(stop))
        assert outputs[-1].finish_reason == ("length" if stop == "b" else "stop")


@pytest.mark.parametrize("changes", [{}, {"top_k": 4}, {"min_p": 0.1, "presence_penalty": 1.0}])
def test_half_precision_logits_are_processed_in_float32(byte_tokenizer, changes: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(3)
    choices = TargetChoices(256, torch.device("cpu"))
    for seed in range(20):
        logits = torch.randn(1, 256, generator=generator, dtype=torch.float32).bfloat16()
        request = GenerationRequest("a", (1, 2), SamplingParams(seed=seed, **changes))
        sequence = Sequence(request, byte_tokenizer, frozenset())
        noise = gumbel([sequence.key(0)], torch.arange(256))[0]
        expected = choose(logits[0].float(), request.sampling, noise, processors_for(request, frozenset()))
        choices.begin(Rows(logits, logits, [], 0, []), [], [sequence], None)
        assert choices.root(0) == expected
