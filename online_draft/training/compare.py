"""Is a candidate really better? Paired bootstrap over replayed records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from online_draft.training.replay import ReplayResult


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
    if len(candidate) != len(champion):
        raise ValueError(f"paired results are needed, got {len(candidate)} and {len(champion)}")
    pairs = [(a, b) for a, b in zip(candidate, champion, strict=True) if a.steps and b.steps]
    counts = np.asarray([(a.committed, a.steps, b.committed, b.steps) for a, b in pairs], dtype=np.float64)
    if len(pairs) < max(1, min_records):
        reason = f"{len(pairs)} held-out records, {max(1, min_records)} are needed"
        nan = float("nan")
        return GateNumbers(nan, nan, nan, nan, len(pairs), 0, alpha, False, reason)
    total = counts.sum(0)
    tau_candidate, tau_champion = total[0] / total[1], total[2] / total[3]
    gain = tau_candidate / tau_champion - 1
    rng = np.random.default_rng(seed)
    picks = rng.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=resamples)
    sums = picks @ counts
    gains = (sums[:, 0] / sums[:, 1]) / (sums[:, 2] / sums[:, 3]) - 1
    lower = float(np.quantile(gains, alpha))
    if gain < min_gain:
        reason = f"gain {gain:+.2%} is below the minimum {min_gain:.2%}"
    elif lower <= 0:
        reason = f"the lower bound {lower:+.2%} is not above 0"
    else:
        reason = f"gain {gain:+.2%}, lower bound {lower:+.2%}"
    passed = bool(gain >= min_gain and lower > 0)
    return GateNumbers(
        float(tau_candidate),
        float(tau_champion),
        float(gain),
        lower,
        len(pairs),
        resamples,
        alpha,
        passed,
        reason,
    )
