"""A target whose weights change under a running engine: each answer is one target's, and none is lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from online_draft.core import TARGET_UPDATED, GenerationRequest, SamplingParams, StepOutput
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.decoding.retarget import TargetChange
from online_draft.errors import ConfigError
from online_draft.models.artifact import new_drafter
from online_draft.models.loading import LoadedTarget

SIZES = {"attention_heads": 2, "intermediate_size": 32, "markov_rank": 4, "num_heads": 3, "window": 16}
KINDS = [{"kernels": "off"}, {"kernels": "wait"}]


def requests(count: int, name: str, tokens: int = 30) -> list[GenerationRequest]:
    """Every other one sampled; all begin alike, so that prefixes are shared."""
    begin = tuple(range(40))
    return [
        GenerationRequest(
            f"{name}{index}",
            (*begin, 50 + index),
            SamplingParams(
                temperature=0.8 * (index % 2), max_tokens=tokens, seed=index, ignore_eos=True,
                prompt_logprobs=1 if index == 3 else None,
            ),
        )
        for index in range(count)
    ]  # fmt: skip


def pair(tiny_target: Callable[..., LoadedTarget], dtype: torch.dtype) -> tuple[LoadedTarget, LoadedTarget]:
    """A target that may be changed, and what it becomes."""
    old, new = tiny_target("qwen3", False, dtype, 0), tiny_target("qwen3", False, dtype, 1)
    return replace(old, target=copy.deepcopy(old.target)), new


def engine_for(loaded: LoadedTarget, **changes: Any) -> Engine:
    sizes = {"max_sequences": 4, "speculation": "always", "tree_nodes": 6, "block_size": 8}
    return Engine(loaded, EngineConfig(**{**sizes, **changes}))


def plain(loaded: LoadedTarget, asked: list[GenerationRequest]) -> dict[str, list[StepOutput]]:
    engine = engine_for(loaded, speculation="off", kernels="off", ngram=False)
    for request in asked:
        engine.add(request)
    return collect(engine, asked)


def collect(engine: Engine, asked: list[GenerationRequest]) -> dict[str, list[StepOutput]]:
    outputs: dict[str, list[StepOutput]] = {request.request_id: [] for request in asked}
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
        engine.check_integrity()
    return outputs


def tokens(outputs: list[StepOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def overwrite(loaded: LoadedTarget, new: LoadedTarget) -> None:
    with torch.no_grad():
        for ours, theirs in zip(loaded.target.parameters(), new.target.parameters(), strict=True):
            ours.copy_(theirs)
    loaded.target.thaw()


@pytest.mark.parametrize("changes", KINDS, ids=lambda changes: str(changes["kernels"]))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_who_has_begun_finishes_by_the_old_weights_and_the_others_are_the_new_ones(
    tiny_target: Callable[..., LoadedTarget], changes: dict[str, Any], dtype: torch.dtype
) -> None:
    loaded, new = pair(tiny_target, dtype)
    early, late = requests(4, "early"), requests(8, "late")
    expected = {**plain(loaded, early), **plain(new, late)}
    other = plain(loaded, late)
    engine = engine_for(loaded, **changes)
    drafter = new_drafter("amphista", loaded.target, draft_vocab=torch.arange(0, 256, 2), **SIZES)
    engine.set_drafter(drafter, "v1")
    for request in early:
        engine.add(request)
    outputs: dict[str, list[StepOutput]] = {request.request_id: [] for request in (*early, *late)}
    while any(not tokens(outputs[request.request_id]) for request in early):
        for output in engine.step():
            outputs[output.request_id].append(output)

    def installed() -> None:
        engine.set_drafter(new_drafter("amphista", loaded.target, **SIZES), "v2")

    change = TargetChange(lambda: overwrite(loaded, new), installed)
    engine.update_target(change)
    with pytest.raises(ConfigError, match="updated already"):
        engine.update_target(TargetChange(lambda: None))
    for request in late:
        engine.add(request)
    for name, given in collect(engine, [*early, *late]).items():
        outputs[name] += given
    assert change.done.result(0) == 0
    for name, given in outputs.items():
        assert tokens(given) == tokens(expected[name]), name
        assert given[-1].finish_reason == "length"
    assert {outputs[r.request_id][-1].drafter_version for r in late} == {"v2"}
    assert outputs["late3"][0].prompt_logprobs is not None
    logprobs = [(e and e.token_id) for e in outputs["late3"][0].prompt_logprobs]
    assert logprobs == [(e and e.token_id) for e in expected["late3"][0].prompt_logprobs or ()]
    assert any(tokens(other[r.request_id]) != tokens(expected[r.request_id]) for r in late), "nothing changed"


def test_a_prompt_that_is_being_read_starts_over(tiny_target: Callable[..., LoadedTarget]) -> None:
    loaded, new = pair(tiny_target, torch.float64)
    asked = requests(4, "r")
    expected = plain(new, asked)
    engine = engine_for(loaded, kernels="off", prefill_rows=8, prefill_rows_busy=8)
    for request in asked:
        engine.add(request)
    assert not engine.step() and engine.load()[0], "the prompts were read at once"
    engine.update_target(TargetChange(lambda: overwrite(loaded, new)))
    outputs = collect(engine, asked)
    for name, given in outputs.items():
        assert tokens(given) == tokens(expected[name])
    (scored,) = [o.prompt_logprobs for o in outputs["r3"] if o.prompt_logprobs is not None]
    (wanted,) = [o.prompt_logprobs for o in expected["r3"] if o.prompt_logprobs is not None]
    for ours, theirs in zip(scored[1:], wanted[1:], strict=True):
        assert ours is not None and theirs is not None
        assert ours.logprob == pytest.approx(theirs.logprob)


def test_what_takes_too_long_is_aborted_with_a_reason(tiny_target: Callable[..., LoadedTarget]) -> None:
    loaded, new = pair(tiny_target, torch.float64)
    asked, late = requests(2, "r", tokens=200), requests(2, "late")
    expected = plain(loaded, asked)
    engine = engine_for(loaded, kernels="off")
    for request in asked:
        engine.add(request)
    now = [0.0]
    outputs: dict[str, list[StepOutput]] = {request.request_id: [] for request in (*asked, *late)}
    change = TargetChange(lambda: overwrite(loaded, new), drain_s=5.0, clock=lambda: now[0])
    for step in range(12):
        if step == 5:
            engine.update_target(change)
            for request in late:
                engine.add(request)
        for output in engine.step():
            outputs[output.request_id].append(output)
    assert not change.done.done() and not outputs["late0"]
    now[0] = 6.0
    for name, given in collect(engine, [*asked, *late]).items():
        outputs[name] += given
    assert change.done.result(0) == 2
    for request in asked:
        given = outputs[request.request_id]
        assert given[-1].finish_reason == "abort" and given[-1].error == TARGET_UPDATED
        so_far = tokens(given)
        assert so_far and so_far == tokens(expected[request.request_id])[: len(so_far)]
    after = plain(loaded, late)
    assert {n: tokens(given) for n, given in after.items()} == {n: tokens(outputs[n]) for n in after}


def test_the_prefix_cache_and_the_ngram_memory_know_nothing_of_the_old_target(
    tiny_target: Callable[..., LoadedTarget],
) -> None:
    loaded, new = pair(tiny_target, torch.float64)
    engine = engine_for(loaded, kernels="off")
    asked = requests(2, "a")
    for request in asked:
        engine.add(request)
    collect(engine, asked)
    assert engine.cache_stats().blocks_cached and engine._ngrams is not None
    assert engine._ngrams.report()["tokens"]
    engine.update_target(TargetChange(lambda: overwrite(loaded, new)))
    assert engine.has_work and engine.step() == [] and not engine.has_work
    assert not engine.cache_stats().blocks_cached and not engine._ngrams.report()["tokens"]
    before = engine.cache_stats().hits
    engine.add(requests(1, "b")[0])
    engine.step()
    assert engine.cache_stats().hits == before


def test_an_error_while_weights_are_copied_is_told_and_not_hidden(
    tiny_target: Callable[..., LoadedTarget],
) -> None:
    def torn() -> None:
        raise OSError("the disk is gone")

    loaded, _ = pair(tiny_target, torch.float64)
    engine = engine_for(loaded, kernels="off")
    change = TargetChange(torn)
    engine.update_target(change)
    with pytest.raises(OSError, match="disk"):
        engine.step()
    with pytest.raises(OSError, match="disk"):
        change.done.result(0)
