"""Adapters come, go and share a batch; outputs stay what the target alone says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ArtifactError, ConfigError
from online_draft.models.adapters.adapter import Adapter
from online_draft.models.artifact import new_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget

Make = Callable[..., Adapter]


@pytest.fixture
def loaded(tiny_target: Callable[..., LoadedTarget]) -> LoadedTarget:
    return tiny_target()


@pytest.fixture
def drafter(loaded: LoadedTarget) -> Drafter:
    sizes = {"num_heads": 3, "window": 16, "attention_heads": 2, "intermediate_size": 32, "markov_rank": 8}
    made = new_drafter("amphista", loaded.target, **sizes)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return made


def engine_for(loaded: LoadedTarget, **changes: Any) -> Engine:
    sizes = {"max_sequences": 10, "speculation": "always", "tree_nodes": 6, "kernels": "off", "ngram": False}
    return Engine(loaded, EngineConfig(**{**sizes, **changes}))


def requests(count: int, tokens: int = 24, segments: str = "abc") -> list[GenerationRequest]:
    return [
        GenerationRequest(
            str(index),
            tuple((11 * index + 5 * place) % 256 for place in range(4 + index % 3)),
            SamplingParams(temperature=(0.0, 0.8)[index % 2], max_tokens=tokens, seed=index, ignore_eos=True),
            segment=segments[index % len(segments)],
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("kernels", ["off", "wait"])
def test_a_mixed_batch_says_what_the_target_says(
    loaded: LoadedTarget, drafter: Drafter, make_adapter: Make, decode: Callable[..., Any], kernels: str
) -> None:
    plain = decode(engine_for(loaded, speculation="off"), requests(9))
    engine = engine_for(loaded, kernels=kernels)
    engine.set_drafter(drafter, "v1")
    engine.adapters.load("a-1", make_adapter(drafter, "a", seed=1))
    engine.adapters.load("b-1", make_adapter(drafter, "b", seed=2, rank=5))

    def between(step: int) -> None:
        if step == 12:
            engine.adapters.load("c-1", make_adapter(drafter, "c", seed=3))
        if step == 16:
            assert engine.adapters.unload("a-1")

    assert decode(engine, requests(9), between) == plain


def test_loading_one_while_eight_streams_run_disturbs_none(
    loaded: LoadedTarget, drafter: Drafter, make_adapter: Make
) -> None:
    def run(load_at: int | None) -> tuple[dict[str, list[int]], list[list[int]]]:
        engine = engine_for(loaded)
        engine.set_drafter(drafter, "v1")
        engine.adapters.load("a-1", make_adapter(drafter, "a", seed=1))
        for request in requests(8, 40, "ab"):
            engine.add(request)
        outputs: dict[str, list[int]] = {str(index): [] for index in range(8)}
        rebuilt, state = [], engine._arms.champion.state
        assert state is not None
        while engine.has_work:
            if engine.steps == load_at:
                engine.adapters.load("other-1", make_adapter(drafter, "other", seed=2))
            before = list(state.epoch)
            for output in engine.step():
                assert output.finish_reason in (None, "length")
                outputs[output.request_id] += output.token_ids
            rebuilt.append([slot for slot in range(8) if before[slot] != state.epoch[slot]])
        return outputs, rebuilt

    outputs, rebuilt = run(load_at=6)
    expected, usual = run(load_at=None)
    assert outputs == expected
    assert all(len(tokens) == 40 for tokens in outputs.values())
    assert rebuilt == usual, "what the drafter remembers of the streams was thrown away"


def test_a_new_adapter_of_a_segment_is_used_by_its_running_streams_only(
    loaded: LoadedTarget, drafter: Drafter, make_adapter: Make
) -> None:
    engine = engine_for(loaded)
    engine.set_drafter(drafter, "v1")
    for request in requests(6, 40):
        engine.add(request)
    for _ in range(5):
        engine.step()
    state = engine._arms.champion.state
    assert state is not None and state.place == [0] * 10
    epochs = list(state.epoch)
    engine.adapters.load("b-1", make_adapter(drafter, "b"))
    assert [bool(place) for place in state.place[:6]] == [False, True, False] * 2
    assert [slot for slot in range(6) if state.epoch[slot] != epochs[slot]] == [1, 4]
    engine.adapters.load("b-2", make_adapter(drafter, "b", seed=1))
    assert engine.adapters.report()["loaded"] == {"b": "b-2"}
    while engine.has_work:
        engine.step()
    assert state.place == [0] * 10


def test_the_longest_unused_adapter_makes_room(
    loaded: LoadedTarget, drafter: Drafter, make_adapter: Make, decode: Callable[..., Any]
) -> None:
    engine = engine_for(loaded, max_adapters=2)
    engine.set_drafter(drafter, "v1")
    for segment in "abc":
        engine.adapters.load(segment, make_adapter(drafter, segment))
    assert engine.adapters.report()["resident"] == ["b", "c"]
    decode(engine, requests(1, 4, "b"))
    decode(engine, requests(1, 4, "a"))
    assert engine.adapters.report()["resident"] == ["b", "a"]
    assert engine.adapters.report()["loaded"] == {"a": "a", "b": "b", "c": "c"}


def test_a_request_drafts_without_its_adapter_while_all_places_are_in_use(
    loaded: LoadedTarget, drafter: Drafter, make_adapter: Make
) -> None:
    engine = engine_for(loaded, max_adapters=2)
    engine.set_drafter(drafter, "v1")
    for segment in "cab":
        engine.adapters.load(segment, make_adapter(drafter, segment))
    for request in requests(3, 30, "abc"):
        engine.add(request)
    for _ in range(3):
        engine.step()
    state = engine._arms.champion.state
    assert state is not None and sorted(state.place[:3]) == [0, 1, 2] and state.place[2] == 0
    assert engine.adapters.report()["resident"] == ["a", "b"]


def test_adapters_go_with_their_base_and_stay_with_it(
    loaded: LoadedTarget, drafter: Drafter, make_adapter: Make
) -> None:
    engine = engine_for(loaded)
    engine.set_drafter(drafter, "v1")
    engine.adapters.load("a-1", make_adapter(drafter, "a"))
    for request in requests(3, 40):
        engine.add(request)
    for _ in range(4):
        engine.step()
    engine.set_drafter(drafter.clone(), "v1-again")
    state = engine._arms.champion.state
    assert state is not None and state.place[:3] == [1, 0, 0] and state.adapters is not None
    other = drafter.clone()
    with torch.no_grad():
        next(other.parameters()).add_(0.5)
    engine.set_drafter(other, "v2")
    state = engine._arms.champion.state
    assert state is not None and state.place == [0] * 10 and state.adapters is None
    report = engine.adapters.report()
    assert (report["loaded"], report["resident"], report["dropped"]) == ({}, [], ["a-1"])
    with pytest.raises(ArtifactError, match="for base v1"):
        engine.adapters.load("a-1", make_adapter(drafter, "a"))
    engine.step()


def test_what_can_not_be_loaded_says_why(loaded: LoadedTarget, drafter: Drafter, make_adapter: Make) -> None:
    adapter = make_adapter(drafter, "a", rank=5)
    with pytest.raises(ConfigError, match=r"engine\.max_adapters"):
        engine_for(loaded, max_adapters=0).adapters.load("a", adapter)
    engine = engine_for(loaded, adapter_rank=4)
    with pytest.raises(ArtifactError, match="no drafter runs"):
        engine.adapters.load("a", adapter)
    engine.set_drafter(drafter, "v1")
    with pytest.raises(ArtifactError, match="adapter_rank 4"):
        engine.adapters.load("a", adapter)
    engine.set_drafter(new_drafter("medusa", loaded.target), "m")
    with pytest.raises(ArtifactError, match="for amphista heads"):
        engine.adapters.load("a", adapter)
    assert not engine.adapters.unload("a")
