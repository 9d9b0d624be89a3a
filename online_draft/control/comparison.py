"""Two concurrent arms: is one's τ worse than the other's? From counts, at any time, any number of times.

The question is asked again after every few requests, and control may die and ask anew. So the answer is a
confidence sequence: its error is bounded over all times at once, and it needs no memory of earlier looks.
Robbins' normal mixture (1970; Howard, Ramdas, McAuliffe and Sekhon 2021), asymptotic in the number of
requests (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from online_draft.monitor.arms import ArmCounts

_SHARPEST_AT = 0.03
"""Standard error, as a part of τ, at which the bound is narrowest."""
_OWN_SPREAD = 5
"""Requests that each arm must have in a segment for its own spread; fewer share one."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`ours` against `theirs`, over the segments that both had.

    `gain` is (τ ours − τ theirs) / τ theirs, `error` its standard error, `z` the one over the other: 0,
    infinity and 0 while there is nothing to compare.
    """

    our_requests: int = 0
    their_requests: int = 0
    our_tau: float = 0.0
    their_tau: float = 0.0
    gain: float = 0.0
    z: float = 0.0
    error: float = math.inf
    segments: int = 0

    def bound(self, alpha: float) -> float:
        """How far |z| goes with a probability of at most `alpha`, however often one looks, if both are
        equal."""
        if not math.isfinite(self.error):
            return math.inf
        wanted = -2 * math.log(alpha)
        sharpest = (wanted + math.log(wanted + 1)) * _SHARPEST_AT**2
        ratio = self.error**2 / sharpest
        return math.sqrt((1 + ratio) * (math.log1p(1 / ratio) + wanted))

    def worse(self, alpha: float, min_loss: float, min_requests: int) -> bool:
        """Whether ours is worse by `min_loss` or more, and by more than chance. Never on fewer than
        `min_requests` in either arm."""
        few = min(self.our_requests, self.their_requests) < min_requests
        return not few and self.gain <= -min_loss and self.z < -self.bound(alpha)

    def as_numbers(self, alpha: float) -> dict[str, Any]:
        """For the journal and the status: plain JSON; in pairs ours comes first."""
        bound = self.bound(alpha)
        return {
            "requests": [self.our_requests, self.their_requests],
            "tau": [round(self.our_tau, 4), round(self.their_tau, 4)],
            "gain": round(self.gain, 4),
            "z": round(self.z, 3),
            "z_bound": round(bound, 3) if math.isfinite(bound) else None,
            "segments": self.segments,
        }


def compare(ours: Mapping[str, ArmCounts], theirs: Mapping[str, ArmCounts]) -> Comparison:
    """Compare two arms, {segment: counts} each.

    Within a segment the arms' τ differ by d; a segment weighs ab / (a + b) in both arms, a and b being the
    steps that each had there (Cochran, Mantel and Haenszel). An arm that got more of the easy traffic gains
    nothing by it. Requests are the units: their spread is that of committed − τ · steps.
    """
    worth = spread = weight = our_tau = their_tau = 0.0
    our_requests = their_requests = segments = 0
    for segment in ours.keys() & theirs.keys():
        a, b = ours[segment], theirs[segment]
        if not (a.steps and b.steps):
            continue
        segments += 1
        our_requests += a.requests
        their_requests += b.requests
        share = b.steps / (a.steps + b.steps)
        w = a.steps * share
        weight += w
        our_tau += w * a.committed / a.steps
        their_tau += w * b.committed / b.steps
        worth += (a.committed * b.steps - b.committed * a.steps) / (a.steps + b.steps)
        spread += _spread(a, b, share)
    if weight == 0 or their_tau == 0:
        return Comparison()
    error = math.sqrt(spread) / their_tau if spread > 0 else math.inf
    z = worth / math.sqrt(spread) if spread > 0 else 0.0
    gain = worth / their_tau
    return Comparison(
        our_requests, their_requests, our_tau / weight, their_tau / weight, gain, z, error, segments
    )


def _spread(a: ArmCounts, b: ArmCounts, share: float) -> float:
    """Variance of a segment's part of the sum."""
    if min(a.requests, b.requests) >= _OWN_SPREAD:
        ours = _residuals(a, a.committed / a.steps) * a.requests / (a.requests - 1)
        theirs = _residuals(b, b.committed / b.steps) * b.requests / (b.requests - 1)
        if ours + theirs > 0:
            return share**2 * ours + (1 - share) ** 2 * theirs
    both = a.requests + b.requests
    tau = (a.committed + b.committed) / (a.steps + b.steps)
    pooled = share**2 * _residuals(a, tau) + (1 - share) ** 2 * _residuals(b, tau)
    return pooled * both / (both - 1)


def _residuals(arm: ArmCounts, tau: float) -> float:
    """Sum over requests of (committed − τ · steps)²."""
    return max(0.0, arm.committed_squared - 2 * tau * arm.steps_committed + tau * tau * arm.steps_squared)
