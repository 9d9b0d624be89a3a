"""The n-gram memory in the engine: what it drafts, for whom, and that no output changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from online_draft.core import GenerationRequest, SamplingParams, SpeculationCounts
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine

ALWAYS = EngineConfig(max_sequences=4, kv_tokens=2048, tree_nodes=12, speculation="always")
LENGTH = 40


def asked(name: str, prompt: tuple[int, ...] = (1, 2, 3), temperature: float = 0.8, **fields: Any):
    sampling = SamplingParams(temperature=temperature, max_tokens=LENGTH, ignore_eos=True, seed=5)
    return GenerationRequest(name, prompt, sampling, **fields)


def plainly(loaded, request: GenerationRequest, decode) -> list[int]:
    engine = Engine(loaded, EngineConfig(ngram=False))
    return decode(engine, [request])[request.request_id]


def counted(engine: Engine, request: GenerationRequest) -> tuple[list[int], SpeculationCounts]:
    """A request's output and counts."""
    engine.add(request)
    tokens: list[int] = []
    while engine.has_work:
        for output in engine.step():
            tokens += output.token_ids
            counts = output.counts
        engine.check_integrity()
    assert counts is not None
    return tokens, counts


def remembered(engine: Engine) -> tuple[int, int]:
    """Requests that are open in the memory, and tenants that it knows."""
    assert engine._ngrams is not None
    stats = engine._ngrams.memory.stats()
    return stats.requests, stats.tenants


@pytest.mark.parametrize("kernels", ["off", "wait"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_tenants_second_request_follows_its_first(
    tiny_target, decode, kernels: Any, temperature: float
) -> None:
    expected = plainly(tiny_target(), asked("a", temperature=temperature), decode)
    engine = Engine(tiny_target(), replace(ALWAYS, kernels=kernels))
    first, _ = counted(engine, asked("a", temperature=temperature))
    second, counts = counted(engine, asked("b", temperature=temperature))
    assert first == second == expected
    assert counts.steps <= 8
    assert counts.ngram_drafted == counts.drafted > 0
    assert counts.ngram_accepted == counts.accepted[: len(counts.ngram_accepted)]
    assert sum(counts.ngram_accepted) == counts.accepted_tokens == LENGTH - counts.steps
    assert len(counts.ngram_accepted) > 8, "proposals reach deeper than any head"


def test_a_copy_in_the_prompt_is_followed(tiny_target, decode) -> None:
    """The target is made to copy by a bias; the memory needs no earlier request for that."""
    text = (17, 130, 55, 201, 90, 33, 78, 145, 66, 12)
    bias = tuple((token, 60.0) for token in text)
    request = asked("a", (*text, *text, *text, *text[:4]), temperature=0.0)
    request = replace(request, sampling=replace(request.sampling, logit_bias=bias, frequency_penalty=2.0))
    expected = plainly(tiny_target(), request, decode)
    tokens, counts = counted(Engine(tiny_target(), ALWAYS), request)
    assert tokens == expected
    assert counts.steps < LENGTH, "what repeats itself is found in the request itself"


def test_another_tenant_gains_nothing(tiny_target) -> None:
    _, alone = counted(Engine(tiny_target(), ALWAYS), asked("a"))
    engine = Engine(tiny_target(), ALWAYS)
    counted(engine, asked("a"))
    _, other = counted(engine, asked("b", tenant="other"))
    assert other == alone
    _, own = counted(engine, asked("c"))
    assert own.steps < alone.steps


@pytest.mark.parametrize("way", ["no records", "erased", "erased while it runs", "cancelled"])
def test_what_must_not_be_kept_is_gone(tiny_target, way: str) -> None:
    _, alone = counted(Engine(tiny_target(), ALWAYS), asked("a"))
    engine = Engine(tiny_target(), ALWAYS)
    engine.add(asked("a", learn=way != "no records"))
    for _ in range(30):
        engine.step()
    assert remembered(engine) == (1, 0)
    if way == "erased while it runs":
        engine.forget_tenant("default")
    if way == "cancelled":
        engine.cancel("a")
    while engine.has_work:
        engine.step()
    if way == "erased":
        assert remembered(engine) == (0, 1)
        engine.forget_tenant("default")
    assert remembered(engine) == (0, 0)
    assert counted(engine, asked("b"))[1] == alone


def test_plain_requests_stay_plain_and_are_remembered(tiny_target) -> None:
    engine = Engine(tiny_target(), ALWAYS)
    _, plain = counted(engine, asked("a", speculate=False))
    assert (plain.steps, plain.drafted) == (LENGTH, 0)
    _, counts = counted(engine, asked("b"))
    assert counts.steps <= 8
    _, plain = counted(engine, asked("c", speculate=False))
    assert (plain.steps, plain.drafted) == (LENGTH, 0)


def test_without_the_memory_nothing_is_proposed(tiny_target) -> None:
    engine = Engine(tiny_target(), replace(ALWAYS, ngram=False))
    counted(engine, asked("a"))
    _, counts = counted(engine, asked("b"))
    assert counts.drafted == 0
    engine.forget_tenant("default")
    assert "ngram" not in engine.speculation_report()


@pytest.mark.parametrize("kernels", ["off", "wait"])
def test_heads_and_memory_share_one_tree(tiny_target, recall_drafter, decode, kernels: Any) -> None:
    """Heads that are right only now and then; the memory knows half of the requests."""
    loaded = tiny_target()
    requests = [asked(f"r{i}", (4, 5, i % 4), choice_index=i % 4) for i in range(8)]
    plain = {r.request_id: plainly(loaded, r, decode) for r in requests}
    engine = Engine(loaded, replace(ALWAYS, kernels=kernels))
    texts = [[*r.prompt_ids, *plain[r.request_id]] for r in requests]
    engine.set_drafter(recall_drafter(texts, 0.6, 1), "recall")
    total = SpeculationCounts()
    for request in requests:
        tokens, counts = counted(engine, request)
        assert tokens == plain[request.request_id]
        total.add(counts)
    heads = total.accepted_tokens - sum(total.ngram_accepted)
    assert heads > 40 and sum(total.ngram_accepted) > 40, total
    assert total.ngram_drafted < total.drafted
    report = engine.speculation_report()
    assert report["ngram"]["found"] > 0
    assert report["calibration"]["depths"]["1"]["observed"] > 0.3
    assert decode(engine, [replace(r, request_id=f"again {r.request_id}") for r in requests]) == {
        f"again {name}": tokens for name, tokens in plain.items()
    }


def test_preempted_requests_are_opened_again(tiny_target, decode) -> None:
    """The memory watches those that run, and no others."""
    requests = [replace(asked(name, tuple(range(20 + i))), tenant=name) for i, name in enumerate("abcd")]
    plain = {r.request_id: plainly(tiny_target(), r, decode) for r in requests}
    engine = Engine(tiny_target(), replace(ALWAYS, kv_tokens=160, block_size=4, tree_nodes=6))
    assert decode(engine, requests) == plain
    assert engine.cache_stats().preemptions > 0
    assert remembered(engine) == (0, 4)
