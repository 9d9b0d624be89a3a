"""What a node of the n-gram memory is worth: what speaks for it -> how often the walk takes it.

Shapes: M nodes of a tree, X observed nodes, C cells (one for each kind of evidence at each depth), G groups
of cells. Host side, numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from online_draft.decoding.policy.deciles import Deciles
from online_draft.models.ngram import REQUEST, TENANT, NgramTree
from online_draft.models.ngram.tree import (
    MATCH_BIT,
    MOST_MATCHED,
    MOST_SUPPORT,
    SOURCE_BIT,
    SUPPORT_BIT,
    WHOLE,
)

_MATCHES = (0, 0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, *[7] * (MOST_MATCHED - 12))
"""Lengths of a match that count as one."""
_DEPTHS = 3
"""The last one stands for all further down."""
_DISSENT = (0.05, 0.12, 0.22, 0.42, 0.62)
"""Acceptance to begin with, by share of those that differ, in fifths; like the next two measured on prose,
code, SQL, stories and word problems."""
_LONE = (0.45, 0.5, 0.55, 0.7, 0.75, 0.85, 0.92, 0.95)
"""The same for a single occurrence, by length of the match."""
_AGREED = (0.8, 0.9, 0.94, 0.95, 0.95, 0.96, 0.98, 0.98)
"""The same for several that agree."""
_KINDS = len(_DISSENT) + 2
_GROUPS = _KINDS * len(_LONE)
_CELLS = _GROUPS * 2 * _DEPTHS
_PRIOR = 10.0
"""Pseudo-observations of a group that say it is as measured, and of a cell that say it is like its group."""
_FLUSH = 16
"""Observed trees between two updates; the first ones follow sooner."""
_KEEP = 0.99
"""What an update leaves of the older counts: half is forgotten after about 1,100 trees."""
_HIGHEST = 0.9999
"""No node is certain: a child's value is then always less than its parent's."""


_MEASURED_G = np.concatenate((np.repeat(_DISSENT, len(_LONE)), _LONE, _AGREED))


class NgramCalibration:
    """Learns the acceptance of a node given its parent, online, with exponential forgetting.

    A cell is: length of the match, agreement of the occurrences, source, depth. Observed are all nodes
    proposed below the accepted walk, verified or not, because the walk's token is known there. Holds no
    tokens: one serves all tenants.
    """

    def __init__(self) -> None:
        self._table: list[float]
        self.deciles = Deciles()
        """Of the probabilities of all nodes observed, as the table has them."""
        self._sums_QC = np.zeros((2, _CELLS))
        self._totals_QC = np.zeros((3, _CELLS))
        self._pending_cells: list[int] = []
        self._pending_hits: list[bool] = []
        self._trees = 0
        self._since_flush = 0
        self._flush_every = 1
        self._fit()

    def conditional(self, tree: NgramTree) -> list[float]:
        """Probability of every node given that its parent is accepted, [M]."""
        table = self._table
        return [table[cell] for cell in _cells(tree)]

    def values(self, tree: NgramTree) -> list[float]:
        """Path probability of every node, [M]; below its parent's."""
        values: list[float] = []
        for step, parent in zip(self.conditional(tree), tree.parent_M, strict=True):
            values.append(step if parent < 0 else step * values[parent])
        return values

    def observe(self, tree: NgramTree, tokens: Sequence[int]) -> None:
        """Learn from a step: a tree as proposed, and what the sequence's walk emitted (`Walk.tokens`)."""
        token_M, parent_M, depth_M, _ = tree
        cell_M = _cells(tree)
        taken = {-1}
        for node, parent in enumerate(parent_M):
            if parent in taken and depth_M[node] <= len(tokens):
                hit = token_M[node] == tokens[depth_M[node] - 1]
                if hit:
                    taken.add(node)
                self._pending_cells.append(cell_M[node])
                self._pending_hits.append(hit)
        self._trees += 1
        self._since_flush += 1
        if self._since_flush >= self._flush_every:
            self._flush()

    def report(self) -> dict[str, Any]:
        """Totals since the start: trees, and by source the nodes observed, their mean calibrated probability
        and what was observed; `error` is their mean absolute difference over groups of alike nodes."""
        self._flush()
        nodes_GSD, given_GSD, hits_GSD = self._totals_QC.reshape(3, _GROUPS, 2, _DEPTHS)
        sources = {}
        for name, source in (("request", REQUEST), ("tenant", TENANT)):
            nodes = int(nodes_GSD[:, source].sum())
            if nodes:
                sources[name] = {
                    "nodes": nodes,
                    "calibrated": round(float(given_GSD[:, source].sum()) / nodes, 4),
                    "observed": round(float(hits_GSD[:, source].sum()) / nodes, 4),
                }
        error = float(np.abs((given_GSD - hits_GSD).sum((1, 2))).sum()) / max(1.0, float(nodes_GSD.sum()))
        return {"trees": self._trees, "sources": sources, "error": round(error, 4)}

    def _flush(self) -> None:
        """Enter pending observations and fit the table."""
        trees, self._since_flush = self._since_flush, 0
        self._flush_every = min(_FLUSH, 2 * self._flush_every)
        if not self._pending_cells:
            return
        cell_X = np.array(self._pending_cells)
        self.deciles.add(np.array(self._table)[cell_X], np.array(self._pending_hits))
        nodes_C = np.bincount(cell_X, minlength=_CELLS)
        hits_C = np.bincount(cell_X, self._pending_hits, minlength=_CELLS)
        self._pending_cells.clear()
        self._pending_hits.clear()
        self._totals_QC += np.stack((nodes_C, nodes_C * self._table, hits_C))
        self._sums_QC *= _KEEP ** (trees / _FLUSH)
        self._sums_QC[0] += nodes_C
        self._sums_QC[1] += hits_C
        self._fit()

    def _fit(self) -> None:
        """A group's mean, drawn to what was measured; a cell's, drawn to its group."""
        nodes_C, hits_C = self._sums_QC
        nodes_G, hits_G = self._sums_QC.reshape(2, _GROUPS, -1).sum(-1)
        mean_G = (hits_G + _PRIOR * _MEASURED_G) / (nodes_G + _PRIOR)
        mean_C = mean_G.repeat(2 * _DEPTHS)
        self._table = np.minimum((hits_C + _PRIOR * mean_C) / (nodes_C + _PRIOR), _HIGHEST).tolist()


def _cells(tree: NgramTree) -> list[int]:
    """Each node's cell, [M]."""
    cells: list[int] = []
    last, first = -1, 0
    for evidence, depth in zip(tree.evidence_M, tree.depth_M, strict=True):
        if evidence != last:
            last, first = evidence, _first_cell(evidence)
        cells.append(first + min(depth, _DEPTHS) - 1)
    return cells


def _first_cell(evidence: int) -> int:
    """The cell of an evidence at depth 1."""
    share = evidence & (1 << SUPPORT_BIT) - 1
    if share >= WHOLE:
        kind = len(_DISSENT) + ((evidence >> SUPPORT_BIT & MOST_SUPPORT) > 1)
    else:
        kind = share * len(_DISSENT) // WHOLE
    group = kind * len(_LONE) + _MATCHES[evidence >> MATCH_BIT]
    return (group * 2 + (evidence >> SOURCE_BIT & 1)) * _DEPTHS
