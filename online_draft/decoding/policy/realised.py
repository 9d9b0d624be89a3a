"""What a promise of the policy turned out to be worth."""

from __future__ import annotations

import math

_MEMORY = 192.0
_MOST = 2.0
"""What a step may count as at most, in mean ones."""


class Realised:
    """The advantage that drafted steps really had, over the one that was promised.

    `share` differs from 1 by as much as the steps say beyond one standard error.
    """

    def __init__(self) -> None:
        self._steps = self._seconds = self._worth = self._promised = self._squares = 0.0
        self.share = 1.0

    def observe(self, seconds: float, worth: float, advantage: float) -> None:
        """A drafted step: its time, that of plain ones for the same tokens, and their promised ratio."""
        if self._steps >= 1.0:
            seconds = min(seconds, _MOST * self._seconds / self._steps)
        promised = seconds * advantage
        self._keep(1.0 - 1.0 / _MEMORY)
        self._steps += 1.0
        self._seconds += seconds
        self._worth += worth
        self._promised += promised
        self._squares += (worth - promised) ** 2
        excess = (self._worth - self._promised) / self._promised
        error = math.sqrt(self._squares) / self._promised
        self.share = 1.0 + math.copysign(max(0.0, abs(excess) - error), excess)

    def forget(self) -> None:
        """Half of it."""
        self._keep(0.5)
        self.share = 0.5 + 0.5 * self.share

    def _keep(self, part: float) -> None:
        self._steps *= part
        self._seconds *= part
        self._worth *= part
        self._promised *= part
        self._squares *= part
