"""Trees of a batch on the host: as drafted, and the nodes of them that a step verifies.

Shapes: S sequences, N nodes drafted for each, K nodes verified over all sequences. Host side, numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from online_draft.decoding.ranking import NoiseRanking
from online_draft.decoding.tree import DraftTrees

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DraftedTrees:
    """One tree per sequence, [S, N] each. Parents come before children; parent -1 is the root.

    `logprob_SN` is the log of the path's probability under the drafter; -inf where there is no node. Where
    noise ranks trees, `ranked_S` says which ones, and `share_SN` is the noise's part of a node's probability
    given its parent.
    """

    token_SN: Ints
    parent_SN: Ints
    depth_SN: Ints
    logprob_SN: Floats
    share_SN: Floats | None = None
    ranked_S: NDArray[np.bool_] | None = None

    @property
    def nodes(self) -> int:
        """N."""
        return int(self.token_SN.shape[1])

    @classmethod
    def from_device(cls, trees: DraftTrees, ranking: NoiseRanking | None = None) -> DraftedTrees:
        """Trees built in torch. One synchronisation with the device."""
        known_SN = trees.logprob_SN.double().masked_fill(~trees.valid_SN, float("-inf"))
        parts = (trees.token_SN, trees.parent_SN, trees.depth_SN, known_SN)
        token_SN, parent_SN, depth_SN, logprob_SN = (part.cpu().numpy() for part in parts)
        if ranking is None or trees.share_SN is None:
            return cls(token_SN, parent_SN, depth_SN, logprob_SN)
        share_SN = trees.share_SN.double().cpu().numpy()
        return cls(token_SN, parent_SN, depth_SN, logprob_SN, share_SN, ranking.ranked_S)

    def without(self, forbidden_SN: NDArray[np.bool_]) -> DraftedTrees:
        """The same trees with some nodes struck out; those below them must be struck out too."""
        return replace(self, logprob_SN=np.where(forbidden_SN, -np.inf, self.logprob_SN))


@dataclass(frozen=True, slots=True)
class Forest:
    """The nodes to verify, tree after tree, parents first. Parents count within a tree, -1 is its root.

    `ngram`: which of all nodes only the n-gram memory proposed; None: none of them.
    """

    counts: list[int]
    token_K: list[int]
    parent_K: list[int]
    depth_K: list[int]
    ngram: list[bool] | None = None

    @property
    def total(self) -> int:
        """K."""
        return len(self.token_K)

    def trees(self) -> Iterator[tuple[list[int], list[int], list[int]]]:
        """Tokens, parents and depths of each tree."""
        start = 0
        for count in self.counts:
            end = start + count
            yield self.token_K[start:end], self.parent_K[start:end], self.depth_K[start:end]
            start = end
