"""The nodes that a step verifies, of those that were drafted.

Shapes: S sequences, N nodes drafted for each, K nodes kept in all, X = S·N.
Host side, numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Selection:
    """Kept nodes sequence by sequence, parents first.

    `counts` [S] nodes of each sequence; `flat_K` their places in the [S, N] trees, flattened; `parent_K`
    their parents' places among the sequence's kept nodes (-1 the root); `nodes` is N.
    """

    nodes: int
    counts: list[int]
    flat_K: Ints
    parent_K: Ints

    @property
    def total(self) -> int:
        """Nodes over the whole batch."""
        return len(self.flat_K)

    @property
    def whole(self) -> bool:
        """Whether all that was drafted is kept."""
        return len(self.flat_K) == self.nodes * len(self.counts)

    def as_drafted(self, walks: Sequence[Sequence[int]]) -> list[list[int]]:
        """Walks of all sequences, in kept nodes -> the same in nodes as drafted."""
        if self.whole:
            return [list(walk) for walk in walks]
        found, start = [], 0
        for row, (walk, count) in enumerate(zip(walks, self.counts, strict=True)):
            base = row * self.nodes
            found.append([int(self.flat_K[start + node]) - base for node in walk])
            start += count
        return found


def rank(value_SN: Floats) -> tuple[Ints, Floats, int]:
    """Nodes of the whole batch, best first; what the best 0, 1, … of them are worth; how many are nodes at
    all (value above 0). Ties go to the node that comes first: parents."""
    value_X = value_SN.ravel()
    order_X = (-value_X).argsort(kind="stable")
    worth_C = np.zeros(len(value_X) + 1)
    value_X.take(order_X).cumsum(out=worth_C[1:])
    return order_X, worth_C, int(np.count_nonzero(value_X))


def keep(order_X: Ints, total: int, parent_SN: Ints) -> Selection:
    """Keep the first `total` nodes of `order_X`, which must be closed under "parent of"."""
    count, nodes = parent_SN.shape
    if total == count * nodes:
        return Selection(nodes, [nodes] * count, np.arange(total), parent_SN.ravel())
    flat_K = np.sort(order_X[:total])
    parent_K = parent_SN.take(flat_K)
    if count == 1:
        place_X = np.empty(nodes + 1, np.int64)
        place_X[-1] = -1
        place_X[flat_K] = np.arange(total)
        return Selection(nodes, [total], flat_K, place_X.take(parent_K))
    row_K = flat_K // nodes
    counts_S = np.bincount(row_K, minlength=count)
    start_S = counts_S.cumsum() - counts_S
    place_X = np.empty(count * nodes, np.int64)
    place_X[flat_K] = np.arange(total) - start_S.take(row_K)
    above_K = np.maximum(row_K * nodes + parent_K, 0)
    return Selection(nodes, counts_S.tolist(), flat_K, np.where(parent_K < 0, -1, place_X.take(above_K)))
