"""What was promised of nodes, and what came of it, by tenths of the promised probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TENTHS = 10


class Deciles:
    """Totals over nodes whose parent was accepted: how many, the sum of the probabilities that they were
    given, and how many were accepted."""

    def __init__(self) -> None:
        self._totals_QT = np.zeros((3, TENTHS))

    def add(self, given_X: NDArray[np.float64], hit_X: NDArray[np.bool_]) -> None:
        """Nodes with the probability that each was given, and whether it was accepted."""
        tenth_X = np.minimum((given_X * TENTHS).astype(np.int64), TENTHS - 1)
        for total_T, weight_X in zip(self._totals_QT, (None, given_X, hit_X), strict=True):
            total_T += np.bincount(tenth_X, weight_X, minlength=TENTHS)

    def counts(self) -> dict[str, list[int]]:
        """By tenth: `nodes`, `promised_micro` (the sum of probabilities in millionths), `accepted`."""
        nodes_T, given_T, hits_T = self._totals_QT
        return {
            "nodes": [int(count) for count in nodes_T],
            "promised_micro": [round(1e6 * total) for total in given_T],
            "accepted": [int(count) for count in hits_T],
        }
