from __future__ import annotations

import pytest

from online_draft.bench.stats import middle, paired_ratios, percentile, spread, tails


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (25, 2.0), (50, 3.0), (90, 4.6), (99, 4.96), (100, 5.0)]
)
def test_percentiles_interpolate_between_ranks(percent: float, expected: float) -> None:
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], percent) == pytest.approx(expected)


def test_one_value_is_every_percentile_and_none_has_none() -> None:
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) is None
    assert tails([]) == {"p50": None, "p95": None, "p99": None}


def test_tails_are_in_milliseconds() -> None:
    assert tails([0.001] * 100) == {"p50": 1.0, "p95": 1.0, "p99": 1.0}


def test_ratios_pair_repeats_and_leave_out_those_without_a_base() -> None:
    assert paired_ratios([2.0, 9.0, 6.0], [1.0, 0.0, 2.0]) == [2.0, 3.0]


def test_figures_of_nothing_are_null() -> None:
    assert (middle([]), spread([])) == (None, None)
    assert (middle([1.0, 2.0]), spread([2.0, 1.0])) == (1.5, [1.0, 2.0])
