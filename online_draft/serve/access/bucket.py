"""A token bucket as one number: the moment at which it is full again.

With that moment F, a limit of L per minute and a size of B seconds' worth of refill, an amount a moves F by
a · 60 / L seconds (from now on, if F has passed), and fits as long as F is then at most B seconds ahead.
What is left is (B - (F - now)) · L / 60. Known as the generic cell rate algorithm (ITU-T I.371).
Times are microseconds, as Redis tells them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["requests", "tokens"]

SECOND = 1_000_000
MINUTE = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Demand:
    """An `amount` wanted of one key's bucket, which holds `burst_s` seconds' worth of `per_minute`."""

    key: str
    kind: Kind
    per_minute: int
    burst_s: float
    amount: float

    @property
    def name(self) -> str:
        """The bucket's name."""
        return f"{self.kind}:{self.key}"

    @property
    def cost_us(self) -> float:
        """The time that it takes to refill the amount."""
        return self.amount * MINUTE / self.per_minute

    @property
    def burst_us(self) -> float:
        """The time that it takes to fill the whole bucket, which holds one at least."""
        return max(self.burst_s * SECOND, MINUTE / self.per_minute)

    @property
    def fits(self) -> bool:
        """Whether a full bucket holds the amount."""
        return self.cost_us <= self.burst_us


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket after a demand: how much is left, in how many seconds it is full, and in how many a demand
    that was refused would fit."""

    kind: Kind
    limit: int
    remaining: int
    full_in_s: float
    wait_s: float = 0.0

    @classmethod
    def at(cls, demand: Demand, full_at_us: float, now_us: float, met: bool) -> Level:
        """The level of a bucket that is full at a moment, the demand included if it was met."""
        ahead = max(0.0, full_at_us - now_us)
        left = math.floor((demand.burst_us - ahead) * demand.per_minute / MINUTE + 1e-6)
        wait = 0.0 if met else max(0.0, ahead + demand.cost_us - demand.burst_us)
        return cls(demand.kind, demand.per_minute, max(0, left), ahead / SECOND, wait / SECOND)
