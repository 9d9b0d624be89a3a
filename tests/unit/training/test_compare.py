from __future__ import annotations

import numpy as np
import pytest

from online_draft.training.compare import paired_bootstrap
from online_draft.training.replay import ReplayResult


def results(taus: list[float], tokens: int = 120) -> list[ReplayResult]:
    return [ReplayResult(max(1, round(tokens / tau)), tokens, [], []) for tau in taus]


def noisy(mean: float, count: int, seed: int) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, 0.4, count).clip(1.1))


def test_a_clear_gain_passes() -> None:
    champion = noisy(2.5, 60, 1)
    numbers = paired_bootstrap(results([tau * 1.1 for tau in champion]), results(champion))
    assert numbers.passed
    assert numbers.gain == pytest.approx(0.1, abs=0.02)
    assert 0 < numbers.lower_bound <= numbers.gain
    assert numbers.tau_candidate > numbers.tau_champion
    assert (numbers.records, numbers.resamples) == (60, 2000)


def test_a_worse_candidate_is_refused() -> None:
    champion = noisy(2.5, 60, 1)
    numbers = paired_bootstrap(results([tau * 0.9 for tau in champion]), results(champion))
    assert not numbers.passed
    assert "below the minimum" in numbers.reason


def test_a_gain_within_the_noise_is_refused() -> None:
    numbers = paired_bootstrap(results(noisy(2.55, 20, 1)), results(noisy(2.5, 20, 2)), alpha=0.01)
    assert not numbers.passed


def test_a_sure_but_tiny_gain_is_refused() -> None:
    champion = [ReplayResult(1000, 2500, [], [])] * 50
    candidate = [ReplayResult(995, 2500, [], [])] * 50
    numbers = paired_bootstrap(candidate, champion)
    assert numbers.lower_bound > 0
    assert not numbers.passed


def test_equal_drafters_pass_no_more_often_than_alpha() -> None:
    passed = sum(
        paired_bootstrap(
            results(noisy(2.5, 40, 2 * i)), results(noisy(2.5, 40, 2 * i + 1)), resamples=400, min_gain=0.0
        ).passed
        for i in range(200)
    )
    assert passed <= 20


def test_equal_seeds_give_equal_numbers() -> None:
    a, b = results(noisy(2.6, 30, 1)), results(noisy(2.5, 30, 2))
    assert paired_bootstrap(a, b, seed=5) == paired_bootstrap(a, b, seed=5)
    assert paired_bootstrap(a, b, seed=5) != paired_bootstrap(a, b, seed=6)


def test_too_few_records_are_refused_with_the_number() -> None:
    numbers = paired_bootstrap(results([2.0] * 3), results([1.5] * 3), min_records=8)
    assert not numbers.passed
    assert numbers.reason == "3 held-out records, 8 are needed"
    assert not paired_bootstrap([], []).passed


def test_unpaired_results_are_an_error() -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_bootstrap(results([2.0]), [])
