"""Speculative decoding gives, token by token, what plain decoding gives. float64, zero tolerance."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.amphista import Amphista, AmphistaConfig
from online_draft.models.loading import LoadedTarget
from online_draft.models.medusa import Medusa, MedusaConfig

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def amphista(loaded: LoadedTarget, seed: int) -> Amphista:
    torch.manual_seed(seed)
    sizes = {"hidden_size": loaded.config.hidden_size, "vocab_size": loaded.config.vocab_size}
    config = AmphistaConfig(
        **sizes, attention_heads=4, intermediate_size=32, markov_rank=4, stages=2, window=32, chunk=4
    )
    drafter = Amphista(config).to(loaded.target.dtype)
    drafter.start_from(loaded.target)
    return drafter


def medusa(loaded: LoadedTarget, seed: int) -> Medusa:
    torch.manual_seed(seed)
    drafter = Medusa(MedusaConfig(loaded.config.hidden_size, loaded.config.vocab_size, window=1)).to(
        loaded.target.dtype
    )
    drafter.start_from(loaded.target)
    return drafter


def random_requests(
    rng: random.Random, count: int, draw: Callable[..., SamplingParams]
) -> list[GenerationRequest]:
    requests = []
    for index in range(count):
        sampling = draw(rng, rng.randint(1, 40))
        prompt = tuple(rng.randrange(256) for _ in range(rng.choice([1, 2, 7, 40, 90])))
        if rng.random() < 0.3:
            prompt = (prompt * 4)[:90]
        requests.append(
            GenerationRequest(
                f"r{index}", prompt, sampling, prompt_index=rng.randrange(3), choice_index=index
            )
        )
    return requests


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from(FAMILIES), st.booleans())
def test_any_drafter_any_batch_any_swap_gives_plain_outputs(
    tiny_target, recall_drafter, random_sampling, decode, seed: int, family: str, tie: bool
) -> None:
    rng = random.Random(seed)
    loaded = tiny_target(family, tie)
    requests = random_requests(rng, rng.randint(1, 6), random_sampling)
    plain = decode(
        Engine(loaded, EngineConfig(max_sequences=1, kernels=rng.choice(["off", "wait"]))),
        [replace(r, speculate=False) for r in requests],
    )
    config = EngineConfig(
        speculation=rng.choice(["always", "always", "auto"]),
        ngram=rng.random() < 0.7,
        kernels=rng.choice(["off", "wait"]),
        max_sequences=rng.randint(1, 5),
        kv_tokens=rng.choice([256, 2048]),
        block_size=rng.choice([1, 4, 16]),
        tree_nodes=rng.randint(0, 20),
        tree_width=rng.randint(1, 10),
        feature_window=rng.choice([32, 64]),
        prefill_rows=rng.choice([1, 3, 16, 256]),
        noise_ranked=rng.random() < 0.8,
    )
    engine = Engine(loaded, config)
    texts = [list(r.prompt_ids) + plain[r.request_id] for r in requests]
    drafters = [
        None,
        amphista(loaded, 1),
        amphista(loaded, 2),
        medusa(loaded, 3),
        recall_drafter(texts, 0.9, seed),
        recall_drafter(texts, 0.6, seed),
    ]

    def swap(step: int) -> None:
        if step == 0 or rng.random() < 0.3:
            engine.set_drafter(rng.choice(drafters), f"v{step}")

    assert decode(engine, requests, swap) == plain
    # What the n-gram memory knows by now is nearly all that comes.
    again = rng.sample(requests, 1)[0]
    assert decode(engine, [again], swap) == {again.request_id: plain[again.request_id]}


def test_a_good_drafter_is_accepted_deeply(tiny_target, recall_drafter, decode) -> None:
    """Guards the property above against being vacuous: trees are walked to the last depth."""
    loaded = tiny_target()
    request = GenerationRequest(
        "a", (1, 2, 3), SamplingParams(temperature=0.8, max_tokens=60, seed=3, ignore_eos=True)
    )
    plain = decode(Engine(loaded), [replace(request, speculate=False)])
    engine = Engine(loaded, EngineConfig(tree_nodes=8, speculation="always"))
    engine.set_drafter(recall_drafter([[1, 2, 3, *plain["a"]]], 1.0, 0), "recall")
    assert decode(engine, [request]) == plain
    assert engine.steps <= 1 + -(-60 // 3)


@pytest.mark.parametrize("cut", [1, 5, 17])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_resumes_behind_emitted_tokens(tiny_target, decode, cut: int, temperature: float) -> None:
    loaded = tiny_target("qwen3")
    sampling = SamplingParams(temperature=temperature, max_tokens=30, seed=11, ignore_eos=True, stop=("zzz",))
    request = GenerationRequest("a", tuple(range(10)), sampling)
    engine = Engine(loaded)
    engine.set_drafter(amphista(loaded, 4), "v")
    whole = decode(engine, [request])["a"]
    rest = decode(engine, [replace(request, emitted=tuple(whole[:cut]))])["a"]
    assert whole[:cut] + rest == whole


def test_seeds_choose_different_outputs_and_repeat_themselves(tiny_target, decode) -> None:
    loaded = tiny_target()
    requests = [
        GenerationRequest(f"s{i}", (9, 9), SamplingParams(temperature=1.0, max_tokens=20, seed=i // 2))
        for i in range(6)
    ]
    outputs = decode(Engine(loaded), requests)
    assert outputs["s0"] == outputs["s1"]
    assert len({tuple(o) for o in outputs.values()}) == 3


def test_sampled_tokens_follow_the_target_distribution(tiny_target, decode) -> None:
    loaded = tiny_target()
    hidden = loaded.target.prefill_hidden(torch.tensor([[3, 1, 4]]), torch.tensor([3]))
    expected = loaded.target.logits(hidden[0, -1]).softmax(-1)
    requests = [
        GenerationRequest(f"s{i}", (3, 1, 4), SamplingParams(temperature=1.0, max_tokens=1, seed=i))
        for i in range(3000)
    ]
    engine = Engine(loaded, EngineConfig(max_sequences=64, max_queue=4000))
    counts = torch.zeros(256, dtype=torch.float64)
    for tokens in decode(engine, requests).values():
        counts[tokens[0]] += 1
    likely = expected > 0.01
    assert float((counts / 3000 - expected)[likely].abs().max()) < 0.03
