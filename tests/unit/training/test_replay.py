from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from online_draft.core import SpeculationCounts
from online_draft.decoding.policy.trust import NoiseTrust
from online_draft.models.artifact import new_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget
from online_draft.training.features import TokenRecord
from online_draft.training.replay import mean_accepted_length, replayed_tau
from online_draft.training.trainer import Trainer, TrainerConfig

Generate = Callable[..., tuple[list[TokenRecord], list[SpeculationCounts]]]


@pytest.fixture(scope="module")
def drafter(tiny: LoadedTarget, greedy: list[TokenRecord]) -> Drafter:
    """Half trained, so that walks have every length."""
    fresh = new_drafter("amphista", tiny.target, window=32, num_heads=4)
    learner = Trainer(fresh, tiny.target, TrainerConfig(learning_rate=5e-3, warmup_steps=2))
    for _ in range(25):
        learner.slice(greedy[:6])
    return learner.candidate()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_replay_counts_what_the_engine_counted(
    temperature: float,
    tiny: LoadedTarget,
    drafter: Drafter,
    answers: Generate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sampled records too, whose trees their noise ranks; replay's trust is the one serving begins with."""
    monkeypatch.setattr(NoiseTrust, "update", lambda self, share: None)
    records, counts = answers(tiny, drafter, 12, temperature)
    results = replayed_tau(drafter, tiny.target, records, nodes=16, width=8, batch=5)
    for result, counted, record in zip(results, counts, records, strict=True):
        assert (result.steps, result.committed) == (counted.steps, counted.committed)
        assert result.committed == len(record.output_ids)
        depth = len(counted.tried)
        # The engine drafts nothing where the limit leaves one token; replay can't know the limit.
        for kind in ("tried", "accepted"):
            replayed, served = getattr(result, kind), getattr(counted, kind)
            extra = [a - b for a, b in zip(replayed[:depth], served, strict=True)]
            assert all(number in (0, 1) for number in extra)
            assert sum(extra) <= 2
            assert not any(replayed[depth:])
    if temperature == 0:
        assert mean_accepted_length(results) > 1.5
    else:
        unranked = replayed_tau(drafter, tiny.target, records, nodes=16, width=8, noise_ranked=False)
        assert unranked != results


def test_the_noise_of_another_seed_ranks_otherwise(
    tiny: LoadedTarget, drafter: Drafter, answers: Generate
) -> None:
    records, _ = answers(tiny, None, 6, 0.8)
    found = replayed_tau(drafter, tiny.target, records)
    for change in ({"seed": 99}, {"prompt_index": 1}, {"choice_index": 1}):
        assert found != replayed_tau(drafter, tiny.target, [replace(r, **change) for r in records])


def test_the_batch_does_not_change_the_result(
    tiny: LoadedTarget, drafter: Drafter, greedy: list[TokenRecord]
) -> None:
    assert replayed_tau(drafter, tiny.target, greedy, batch=1) == replayed_tau(
        drafter, tiny.target, greedy, batch=7
    )


def test_a_record_without_output_has_no_steps(tiny: LoadedTarget, drafter: Drafter) -> None:
    results = replayed_tau(drafter, tiny.target, [TokenRecord((1, 2, 3), ()), TokenRecord((1, 2), (5,))])
    assert [(result.steps, result.committed) for result in results] == [(0, 0), (1, 1)]


def test_replay_needs_no_gradient_state(
    tiny: LoadedTarget, drafter: Drafter, greedy: list[TokenRecord]
) -> None:
    training = drafter.clone()
    before = [parameter.clone() for parameter in training.parameters()]
    replayed_tau(training, tiny.target, greedy[:2])
    assert all(parameter.grad is None for parameter in training.parameters())
    assert all(torch.equal(x, y) for x, y in zip(before, training.parameters(), strict=True))
