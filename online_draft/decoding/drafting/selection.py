"""The nodes that a step verifies, of those that it could.

Plain lists: for a handful of nodes numpy's calls cost more than the work. Shapes: S sequences, X nodes over
all of them, C counts of nodes (0 … X).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

_FEW = 64


@dataclass(frozen=True, slots=True)
class Selection:
    """Kept nodes of every sequence, parents first: `kept` are their places in the whole tree, `parents` their
    parents' places among the kept (-1 the root)."""

    kept: list[list[int]]
    parents: list[list[int]]

    @property
    def counts(self) -> list[int]:
        """Nodes of each sequence."""
        return [len(nodes) for nodes in self.kept]

    @property
    def total(self) -> int:
        """Nodes over the whole batch."""
        return sum(map(len, self.kept))

    def as_drafted(self, walks: Sequence[Sequence[int]]) -> list[list[int]]:
        """Walks of all sequences, in kept nodes -> the same in nodes of the whole trees."""
        return [[nodes[node] for node in walk] for nodes, walk in zip(self.kept, walks, strict=True)]


def rank(values: Sequence[Sequence[float]]) -> tuple[list[int], list[float]]:
    """Nodes of the whole batch, sequence after sequence as one list, best first; and what the best 0, 1, … of
    them are worth, as far as they are nodes at all (value above 0). Ties go to the node that comes first."""
    value_X = [value for row in values for value in row] if len(values) > 1 else values[0]
    nodes = len(value_X)
    if nodes <= _FEW:
        order_X = sorted(range(nodes), key=value_X.__getitem__, reverse=True)
    else:
        order_X = (-np.array(value_X)).argsort(kind="stable").tolist()
    usable = nodes - value_X.count(0.0)
    worth_C = list(accumulate([value_X[node] for node in order_X[:usable]], initial=0.0))
    return order_X, worth_C


def best_count(worth_C: Sequence[float], cost_C: Sequence[float], rate: float) -> int:
    """The number of nodes whose worth exceeds most what their time is worth: `rate` a second."""
    if len(worth_C) > _FEW:
        return int((np.array(worth_C) - rate * np.array(cost_C[: len(worth_C)])).argmax())
    scores = [worth - rate * cost for worth, cost in zip(worth_C, cost_C, strict=False)]
    return scores.index(max(scores))


def keep(order_X: Sequence[int], total: int, parents: Sequence[Sequence[int]]) -> Selection:
    """Keep the first `total` nodes of `order_X`, which must be closed under "parent of"."""
    kept: list[list[int]] = [[] for _ in parents]
    above: list[list[int]] = [[] for _ in parents]
    row, start, end = 0, 0, len(parents[0])
    place = {-1: -1}
    for at in sorted(order_X[:total]):
        while at >= end:
            row += 1
            start, end = end, end + len(parents[row])
            place = {-1: -1}
        node = at - start
        place[node] = len(kept[row])
        kept[row].append(node)
        above[row].append(place[parents[row][node]])
    return Selection(kept, above)
