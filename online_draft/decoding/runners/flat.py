"""A step's rows as flat arrays on the host: every sequence has as many rows as it needs.

Shapes: S sequences, N rows, K tree nodes, A entries of a row's chain, T tiles, M rows with logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from online_draft.decoding.drafting.forest import Forest
from online_draft.decoding.plan import StepPlan
from online_draft.models.paged_attention import TILE_ROWS

Ints = NDArray[np.int64]


@dataclass(slots=True)
class FlatRows:
    """What `PagedRows` says of a step, without padding, and where each part's rows are (as in `Rows`).

    `fields_5N`: token, position, row of the slot table, place, context. The chain is as wide as the deepest
    tree is deep. `logit_rows_M` None: every row gives logits.
    """

    fields_5N: Ints
    chain_NA: Ints
    tiles_T2: Ints
    logit_rows_M: Ints | None
    tree_starts: list[int]
    plain_start: int
    chunk_starts: list[int]

    @property
    def rows(self) -> int:
        """N."""
        return int(self.fields_5N.shape[1])

    @property
    def logits(self) -> int:
        """M."""
        return self.rows if self.logit_rows_M is None else len(self.logit_rows_M)

    @property
    def longest(self) -> int:
        """The longest context of a row."""
        return int(self.fields_5N[4].max())


def flat_rows(plan: StepPlan, forest: Forest | None, max_position: int) -> FlatRows:
    """Lay out one step; `forest` belongs to `plan.speculating`."""
    tokens: list[int] = []
    groups: list[tuple[int, int, int]] = []
    tree_starts: list[int] = []
    nodes = forest.counts if forest is not None else []
    for sequence, count in zip(plan.speculating if forest is not None else [], nodes, strict=True):
        tree_starts.append(len(tokens))
        groups.append((sequence.slot, sequence.length, count + 1))
        tokens.append(sequence.tokens[-1])
        tokens += [0] * count
    plain_start = len(tokens)
    for sequence in plan.plain:
        groups.append((sequence.slot, sequence.length, 1))
        tokens.append(sequence.tokens[-1])
    logit_rows = list(range(len(tokens)))
    chunk_starts = []
    for chunk in plan.chunks:
        chunk_starts.append(len(tokens))
        groups.append((chunk.sequence.slot, chunk.start, chunk.count))
        tokens += chunk.sequence.tokens[chunk.start : chunk.start + chunk.count]
        if chunk.last:
            logit_rows.append(len(tokens) - 1)
    slot_S, base_S, count_S = np.array(groups, dtype=np.int64).T
    first_S = np.cumsum(count_S) - count_S
    rows = len(tokens)
    fields_5N = np.empty((5, rows), dtype=np.int64)
    fields_5N[0] = tokens
    fields_5N[2] = np.repeat(slot_S, count_S)
    fields_5N[3] = np.arange(rows) + np.repeat(base_S - first_S, count_S)
    fields_5N[1] = fields_5N[3]
    fields_5N[4] = fields_5N[3] + 1
    chain_NA = np.empty((rows, 0), dtype=np.int64)
    if forest is not None and forest.total:
        chain_NA = _place_trees(forest, base_S[: len(nodes)], fields_5N)
    np.minimum(fields_5N[1], max_position, out=fields_5N[1])
    tiles = [
        (first + at, min(TILE_ROWS, count - at))
        for first, count in zip(first_S.tolist(), count_S.tolist(), strict=True)
        for at in range(0, count, TILE_ROWS)
    ]
    return FlatRows(
        fields_5N,
        chain_NA,
        np.array(tiles, dtype=np.int64),
        np.array(logit_rows, dtype=np.int64) if plan.chunks else None,
        tree_starts,
        plain_start,
        chunk_starts,
    )


def _place_trees(forest: Forest, length_S: Ints, fields_5N: Ints) -> Ints:
    """Enter the nodes' tokens, positions and contexts into the fields; returns the chains [N, A]."""
    counts = forest.counts
    tree_K = np.repeat(np.arange(len(counts)), counts)
    # A node's row is its place among all nodes, plus one root for each tree up to its own.
    row_K = np.arange(forest.total) + tree_K + 1
    length_K = length_S[tree_K]
    fields_5N[0, row_K] = forest.token_K
    fields_5N[1, row_K] = length_K + np.array(forest.depth_K)
    fields_5N[4, row_K] = length_K + 1
    root_S = np.cumsum([0, *counts[:-1]]) + np.arange(len(counts))
    rows = fields_5N.shape[1]
    parent_N = np.full(rows, -1)
    parent_N[row_K] = root_S[tree_K] + np.array(forest.parent_K) + 1
    chain_NA = np.full((rows, max(forest.depth_K)), -1)
    at_K = row_K
    for link in range(chain_NA.shape[1]):
        above_K = parent_N[at_K]
        chain_NA[row_K, link] = np.where(above_K >= 0, fields_5N[3, at_K], -1)
        at_K = np.where(above_K >= 0, above_K, at_K)
    return chain_NA
