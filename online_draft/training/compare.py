"""Is a candidate really better? Paired bootstrap over replayed records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from online_draft.training.replay import ReplayResult


@dataclass(frozen=True, slots=True)
class GroupNumbers:
    """One group of records: `blocks` if the candidate surely loses there."""

    tau_candidate: float
    tau_champion: float
    gain: float
    upper_bound: float
    records: int
    blocks: bool


@dataclass(frozen=True, slots=True)
class GateNumbers:
    """The gate's verdict with its numbers; `gain` and `lower_bound` are relative to the champion's τ."""

    tau_candidate: float
    tau_champion: float
    gain: float
    lower_bound: float
    records: int
    resamples: int
    alpha: float
    passed: bool
    reason: str


def paired_bootstrap(
    candidate: Sequence[ReplayResult],
    champion: Sequence[ReplayResult],
    seed: int = 0,
    resamples: int = 2000,
    alpha: float = 0.05,
    min_gain: float = 0.01,
    min_records: int = 1,
) -> GateNumbers:
    """Compare two drafters replayed on the same records, in the same order.

    Passes when the gain in τ is at least `min_gain` and its one-sided lower confidence bound at level `alpha`
    is above 0. Records without a step are left out. A seed gives the same numbers every time.
    """
    counts = _paired_counts(candidate, champion)
    records = len(counts)
    if records < max(1, min_records):
        reason = f"{records} held-out records, {max(1, min_records)} are needed"
        nan = float("nan")
        return GateNumbers(nan, nan, nan, nan, records, 0, alpha, False, reason)
    tau_candidate, tau_champion = _taus(counts)
    gain = tau_candidate / tau_champion - 1
    lower = float(np.quantile(_resampled_gains(counts, seed, resamples), alpha))
    if gain < min_gain:
        reason = f"gain {gain:+.2%} is below the minimum {min_gain:.2%}"
    elif lower <= 0:
        reason = f"the lower bound {lower:+.2%} is not above 0"
    else:
        reason = f"gain {gain:+.2%}, lower bound {lower:+.2%}"
    passed = bool(gain >= min_gain and lower > 0)
    return GateNumbers(
        tau_candidate,
        tau_champion,
        gain,
        lower,
        records,
        resamples,
        alpha,
        passed,
        reason,
    )


def paired_loss(
    candidate: Sequence[ReplayResult],
    champion: Sequence[ReplayResult],
    seed: int = 0,
    resamples: int = 2000,
    alpha: float = 0.05,
    margin: float = 0.01,
) -> GroupNumbers:
    """Does the candidate lose on these records? Blocks if it loses more than `margin` of τ and the one-sided
    upper confidence bound of its gain at level `alpha` is below 0. ValueError without records with steps.
    """
    counts = _paired_counts(candidate, champion)
    if not len(counts):
        raise ValueError("records with steps are needed")
    tau_candidate, tau_champion = _taus(counts)
    gain = tau_candidate / tau_champion - 1
    upper = float(np.quantile(_resampled_gains(counts, seed, resamples), 1 - alpha))
    return GroupNumbers(tau_candidate, tau_champion, gain, upper, len(counts), gain < -margin and upper < 0)


def _paired_counts(
    candidate: Sequence[ReplayResult], champion: Sequence[ReplayResult]
) -> NDArray[np.float64]:
    """By record: committed and steps of the candidate, then of the champion."""
    if len(candidate) != len(champion):
        raise ValueError(f"paired results are needed, got {len(candidate)} and {len(champion)}")
    pairs = [(a, b) for a, b in zip(candidate, champion, strict=True) if a.steps and b.steps]
    return np.asarray([(a.committed, a.steps, b.committed, b.steps) for a, b in pairs], dtype=np.float64)


def _taus(counts: NDArray[np.float64]) -> tuple[float, float]:
    total = counts.sum(0)
    return float(total[0] / total[1]), float(total[2] / total[3])


def _resampled_gains(counts: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    """Gains in τ on records drawn with replacement."""
    rng = np.random.default_rng(seed)
    picks = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=resamples)
    sums = picks @ counts
    gains: NDArray[np.float64] = (sums[:, 0] / sums[:, 1]) / (sums[:, 2] / sums[:, 3]) - 1
    return gains
