"""A swap in mid-sentence is spread over steps: a few sequences at a time get to know their new drafter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.decoding.runners.eager import EagerRunner
from online_draft.models.artifact import new_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget

COUNT = 8


@pytest.fixture
def loaded(tiny_target: Callable[..., LoadedTarget]) -> LoadedTarget:
    return tiny_target()


def amphista(loaded: LoadedTarget) -> Drafter:
    sizes = {"attention_heads": 2, "intermediate_size": 32, "markov_rank": 4}
    return new_drafter("amphista", loaded.target, num_heads=3, window=16, **sizes)


class Watched:
    """An engine with requests under way, and how many sequences were drafted and handed over in each step."""

    def __init__(self, loaded: LoadedTarget, drafter: Drafter, monkeypatch: pytest.MonkeyPatch) -> None:
        config = EngineConfig(
            max_sequences=COUNT, speculation="always", tree_nodes=4, kernels="off", ngram=False
        )
        self.engine = Engine(loaded, config)
        self.engine.set_drafter(drafter, "v1")
        self.tokens: dict[str, list[int]] = {}
        self.seen: list[tuple[int, int]] = []
        self._drafted = self._followed = 0
        draft, follow = EagerRunner.draft, EagerRunner.follow

        def drafting(runner: Any, state: Any, sequences: Any, *rest: Any) -> Any:
            self._drafted += len(sequences)
            return draft(runner, state, sequences, *rest)

        def following(runner: Any, state: Any, slots: Any) -> None:
            self._followed += len(slots)
            follow(runner, state, slots)

        monkeypatch.setattr(EagerRunner, "draft", drafting)
        monkeypatch.setattr(EagerRunner, "follow", following)

    def add(self, speculate: bool = True) -> None:
        for index in range(COUNT):
            sampling = SamplingParams(
                temperature=0.7 * (index % 2), max_tokens=48, seed=index, ignore_eos=True
            )
            self.engine.add(GenerationRequest(f"r{index}", (index, 2, 3), sampling, speculate=speculate))

    def steps(self, count: int | None = None) -> list[tuple[int, int]]:
        found = []
        while self.engine.has_work and count != len(found):
            self._drafted = self._followed = 0
            for output in self.engine.step():
                self.tokens.setdefault(output.request_id, []).extend(output.token_ids)
            self.engine.check_integrity()
            found.append((self._drafted, self._followed))
        return found


def test_a_quarter_of_the_sequences_is_handed_over_in_a_step(
    loaded: LoadedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Watched(loaded, amphista(loaded), monkeypatch)
    plain.add(speculate=False)
    plain.steps()
    swapped = Watched(loaded, amphista(loaded), monkeypatch)
    swapped.add()
    assert swapped.steps(3)[-1] == (COUNT, 0)
    swapped.engine.set_drafter(amphista(loaded), "v2")
    assert swapped.steps(6) == [(0, 2), (2, 2), (4, 2), (6, 2), (8, 0), (8, 0)]
    swapped.engine.set_drafter(amphista(loaded), "v3")
    assert swapped.steps(2) == [(0, 2), (2, 2)]
    swapped.engine.set_drafter(amphista(loaded), "v4")
    assert swapped.steps(2) == [(0, 2), (2, 2)], "all of them again"
    swapped.steps()
    assert swapped.tokens == plain.tokens


def test_who_keeps_a_drafter_or_needs_nothing_made_does_not_wait(
    loaded: LoadedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = amphista(loaded), amphista(loaded)
    watched = Watched(loaded, first, monkeypatch)
    watched.add()
    watched.steps(3)
    for change in (
        lambda: watched.engine.set_drafters(first, "v1", second, "v2", 0.5),
        lambda: watched.engine.set_drafters(second, "v2", first, "v1", 0.5),
        lambda: watched.engine.set_drafters(first, "v1"),
    ):
        change()
        assert watched.steps(1) == [(COUNT, 0)]
    watched.engine.set_drafters(second, "v2", linger=True)
    assert watched.steps(1) == [(COUNT, 0)]
    medusa = [new_drafter("medusa", loaded.target, num_heads=3, window=1) for _ in range(2)]
    for number, drafter in enumerate(medusa):
        watched.engine.set_drafter(drafter, f"m{number}")
        assert watched.steps(1) == [(COUNT, 0)]


def test_where_a_batch_takes_no_longer_than_one_nobody_waits(
    loaded: LoadedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EagerRunner, "batches_freely", property(lambda runner: True))
    watched = Watched(loaded, amphista(loaded), monkeypatch)
    watched.add()
    watched.steps(3)
    watched.engine.set_drafter(amphista(loaded), "v2")
    assert watched.steps(2) == [(COUNT, 0)] * 2
