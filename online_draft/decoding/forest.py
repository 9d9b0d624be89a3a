"""Trees of a batch on the host: as drafted, and the nodes of them that a step verifies.

Shapes: S sequences, N nodes drafted for each, K nodes verified over all sequences. Host side, numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from online_draft.decoding.selection import Selection
from online_draft.decoding.tree import DraftTrees

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DraftedTrees:
    """One tree per sequence, [S, N] each. Parents come before children; parent -1 is the root.

    `logprob_SN` is the log of the path's probability under the drafter; -inf where there is no node.
    """

    token_SN: Ints
    parent_SN: Ints
    depth_SN: Ints
    logprob_SN: Floats

    @classmethod
    def from_device(cls, trees: DraftTrees) -> DraftedTrees:
        """Trees built in torch. One synchronisation with the device."""
        logprob_SN = trees.logprob_SN.double().masked_fill(~trees.valid_SN, float("-inf"))
        parts = (trees.token_SN, trees.parent_SN, trees.depth_SN, logprob_SN)
        return cls(*(part.cpu().numpy() for part in parts))

    def without(self, forbidden_SN: NDArray[np.bool_]) -> DraftedTrees:
        """The same trees with some nodes struck out; those below them must be struck out too."""
        return replace(self, logprob_SN=np.where(forbidden_SN, -np.inf, self.logprob_SN))

    def keep(self, selection: Selection) -> Forest:
        """The selected nodes."""
        flat_K = selection.flat_K
        return Forest(
            selection.counts, self.token_SN.take(flat_K), selection.parent_K, self.depth_SN.take(flat_K)
        )


@dataclass(frozen=True, slots=True)
class Forest:
    """The nodes to verify, tree after tree, parents first. Parents count within a tree, -1 is its root."""

    counts: list[int]
    token_K: Ints
    parent_K: Ints
    depth_K: Ints

    @property
    def total(self) -> int:
        """K."""
        return len(self.token_K)

    def trees(self) -> Iterator[tuple[list[int], list[int], list[int]]]:
        """Tokens, parents and depths of each tree."""
        token_K, parent_K, depth_K = self.token_K.tolist(), self.parent_K.tolist(), self.depth_K.tolist()
        start = 0
        for count in self.counts:
            end = start + count
            yield token_K[start:end], parent_K[start:end], depth_K[start:end]
            start = end
