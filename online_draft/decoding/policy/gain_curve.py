"""What a drafting sequence gains by nodes, as the last steps' calibrated values promise it.

Shapes: J counts of nodes per sequence (0 … N), C counts of nodes over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

_MEMORY = 48.0
_STALE = 256.0
"""Plain steps after which the curve is trusted half as much."""


class GainCurve:
    """`gain_J`: tokens that a sequence should gain when it gets so many of the best nodes. `weight` is the
    number of steps that the curve stands on, 0 before the first."""

    def __init__(self, nodes: int) -> None:
        self.gain_J = [0.0] * (nodes + 1)
        self.weight = 0.0

    def learn(self, worth_C: Sequence[float], sequences: int, share: float, age: int) -> None:
        """Enter a step: the best nodes of `sequences` sequences, a `share` of those that could draft, are
        worth `worth_C` together. The curve is `age` plain steps old."""
        most = len(worth_C) - 1
        weight = self.weight * _STALE / (_STALE + age)
        part = share / (share + weight)
        self.gain_J = [
            gain + (worth_C[min(count * sequences, most)] / sequences - gain) * part
            for count, gain in enumerate(self.gain_J)
        ]
        self.weight = min(_MEMORY, weight + share)

    def doubt(self) -> None:
        """Another drafter drafts: what the curve says counts little."""
        self.weight = min(self.weight, 2.0)

    def rates(self, sequences: int, rows: int, costs_J: Sequence[float]) -> list[float]:
        """Tokens per second [J] of a step of `rows` sequences of which `sequences` draft, by its cost."""
        return [(gain * sequences + rows) / cost for gain, cost in zip(self.gain_J, costs_J, strict=True)]
