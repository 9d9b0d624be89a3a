from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from online_draft.bench.decode.methods import new_synthetic
from online_draft.bench.synthetic import SyntheticDrafter, heads_for, hit_rate, parse_tau
from online_draft.core import GenerationRequest, SamplingParams, SpeculationCounts
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError
from online_draft.models.ring import FeatureRing

CONFIG = EngineConfig(max_sequences=4, max_queue=16, tree_nodes=8, speculation="always", ngram=False)


def requests(temperature: float = 0.0, tokens: int = 400) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            str(index),
            (index + 1, 2, 3),
            SamplingParams(temperature=temperature, max_tokens=tokens, seed=index, ignore_eos=True),
        )
        for index in range(8)
    ]


def decode(engine: Engine, wanted: list[GenerationRequest]) -> tuple[list[list[int]], SpeculationCounts]:
    outputs: dict[str, list[int]] = {request.request_id: [] for request in wanted}
    counts = SpeculationCounts()
    for request in wanted:
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].extend(output.token_ids)
            if output.counts is not None:
                counts.add(output.counts)
    engine.check_integrity()
    return [*outputs.values()], counts


@pytest.mark.parametrize("tau", [1.2, 2.0, 3.3, 5.0, 9.5, 16.0])
def test_the_hit_rate_gives_the_mean_accepted_length(tau: float) -> None:
    heads = heads_for(tau)
    rate = hit_rate(tau, heads)
    assert 0 < rate < 1
    assert sum(rate**depth for depth in range(heads + 1)) == pytest.approx(tau)


@pytest.mark.parametrize(("tau", "temperature"), [(2.0, 0.0), (3.3, 0.0), (3.3, 1.0)])
def test_an_engine_accepts_as_many_tokens_as_were_drawn(traffic: Any, tau: float, temperature: float) -> None:
    wanted = requests(temperature)
    plain, _ = decode(Engine(traffic.loaded, CONFIG), wanted)
    engine = Engine(traffic.loaded, CONFIG)
    drafter = new_synthetic(f"synthetic:{tau}", engine, traffic.loaded)
    drafter.learn(zip(wanted, plain, strict=True))
    outputs, counts = decode(engine, wanted)
    assert outputs == plain
    assert counts.committed / counts.steps == pytest.approx(tau, rel=0.08)
    observed = [a / t for a, t in zip(counts.accepted, counts.tried, strict=True)]
    assert observed[:3] == pytest.approx([drafter.rate] * 3, abs=0.08)


def test_the_same_hits_are_drawn_in_every_run(traffic: Any) -> None:
    wanted = requests(tokens=40)
    plain, _ = decode(Engine(traffic.loaded, CONFIG), wanted)
    steps = []
    for _ in range(2):
        engine = Engine(traffic.loaded, CONFIG)
        new_synthetic("synthetic:2.5", engine, traffic.loaded).learn(zip(wanted, plain, strict=True))
        steps.append(decode(engine, wanted)[1].steps)
    assert steps[0] == steps[1]


def test_probabilities_are_honest_and_nothing_else_is_right() -> None:
    drafter = SyntheticDrafter(3.0, hidden_size=4, vocab_size=50, device=torch.device("cpu"))
    answer = [(7 * i) % 50 for i in range(2000)]
    request = GenerationRequest("a", (1, 2))
    drafter.attach(lambda slot: request)
    drafter.learn([(request, answer)])
    ring = FeatureRing(1, 4, 4)
    hits = []
    for index in range(1900):
        ring.begin[0] = ring.end[0] = len(request.prompt_ids) + index
        probs_KV = drafter.draft(drafter.new_state(1), ring, [0]).base_logits_SKV[0].softmax(-1)
        true_K = torch.tensor(answer[index + 1 : index + 1 + drafter.num_heads])
        on_true_K = probs_KV.gather(1, true_K.unsqueeze(1))[:, 0]
        assert probs_KV.amax(1).tolist() == pytest.approx([drafter.rate] * drafter.num_heads, abs=1e-2)
        assert ((on_true_K < 1e-6) | (on_true_K == probs_KV.amax(1))).all()
        hits += (on_true_K > 0.1).tolist()
    assert sum(hits) / len(hits) == pytest.approx(drafter.rate, abs=0.02)


def test_the_policy_can_time_it_before_it_knows_any_answer(traffic: Any) -> None:
    wanted = requests(tokens=30)
    plain, _ = decode(Engine(traffic.loaded, CONFIG), wanted)
    engine = Engine(traffic.loaded, replace(CONFIG, speculation="auto"))
    drafter = new_synthetic("synthetic:3.3", engine, traffic.loaded)
    drafter.learn(zip(wanted, plain, strict=True))
    assert decode(engine, wanted)[0] == plain


def test_an_unknown_request_is_an_error() -> None:
    drafter = SyntheticDrafter(2.0, hidden_size=4, vocab_size=50, device=torch.device("cpu"))
    drafter.attach(lambda slot: GenerationRequest("a", (1, 2)))
    with pytest.raises(RuntimeError, match="no answer"):
        drafter.draft(drafter.new_state(1), FeatureRing(1, 4, 4), [0])


@pytest.mark.parametrize(
    "name", ["synthetic:", "synthetic:x", "synthetic:1", "synthetic:17", "synthetic:nan"]
)
def test_a_tau_that_no_drafter_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="synthetic"):
        parse_tau(name)
