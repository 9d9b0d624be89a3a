"""Trees of a batch on the host: as drafted, and the nodes of them that a step verifies.

Shapes: S sequences, N nodes drafted for each, K nodes verified over all sequences. Host side, numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from online_draft.decoding.drafting.ranking import NoiseRanking
from online_draft.decoding.drafting.tree import DraftTrees

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

    def take(self, rows: list[int]) -> DraftedTrees:
        """Some of the trees."""
        share_SN, ranked_S = self.share_SN, self.ranked_S
        return DraftedTrees(
            self.token_SN[rows],
            self.parent_SN[rows],
            self.depth_SN[rows],
            self.logprob_SN[rows],
            None if share_SN is None else share_SN[rows],
            None if ranked_S is None else ranked_S[rows],
        )

    @classmethod
    def joined(cls, parts: Sequence[tuple[DraftedTrees, list[int]]]) -> DraftedTrees:
        """Trees of several drafters as one batch, each where its row says. Smaller ones are filled up."""
        shape = sum(len(rows) for _, rows in parts), max(trees.nodes for trees, _ in parts)
        token_SN, parent_SN, depth_SN = (
            np.zeros(shape, np.int64),
            np.full(shape, -1),
            np.ones(shape, np.int64),
        )
        logprob_SN, share_SN, ranked_S = (
            np.full(shape, -np.inf),
            np.zeros(shape),
            np.zeros(shape[0], np.bool_),
        )
        for trees, rows in parts:
            nodes = trees.nodes
            token_SN[rows, :nodes], parent_SN[rows, :nodes] = trees.token_SN, trees.parent_SN
            depth_SN[rows, :nodes], logprob_SN[rows, :nodes] = trees.depth_SN, trees.logprob_SN
            if trees.share_SN is not None and trees.ranked_S is not None:
                share_SN[rows, :nodes], ranked_S[rows] = trees.share_SN, trees.ranked_S
        if not ranked_S.any():
            return cls(token_SN, parent_SN, depth_SN, logprob_SN)
        return cls(token_SN, parent_SN, depth_SN, logprob_SN, share_SN, ranked_S)

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
