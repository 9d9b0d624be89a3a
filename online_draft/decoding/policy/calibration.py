"""What the heads' confidence is worth: predicted probability of a node -> how often the walk takes it.

Shapes: S sequences, N nodes of a tree, D depths, L levels (first the depths of plainly ranked trees, then
those of trees ranked by noise), B bins, G entries of the lookup table. Host side, numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_draft.decoding.policy.deciles import Deciles
from online_draft.decoding.policy.trust import NoiseTrust

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BINS = 12
_GRID = 512
_FLUSH = 16
"""Observed steps between two updates of the map; the first ones follow sooner."""
_GATHER = 16
"""Observed trees that are looked through at once: numpy's cost is by call, not by size."""
_KEEP = 0.99
"""What an update leaves of the older counts: half is forgotten after about 1,100 steps."""
_PRIOR = 6.0
"""Pseudo-observations of a bin that say: this head is right, but for its depth's common factor."""
_PRIOR_DEPTH = 4.0
"""Pseudo-observations of a depth that say its factor is 1."""
_LOWEST = -60.0
_HIGHEST = 0.9999
"""No node is certain: a child's value is then always less than its parent's, rounding included."""


class Calibration:
    """Learns one monotone map per depth, online, with exponential forgetting; starts as the identity. Trees
    ranked by their request's noise have maps of their own, and the trust in that noise is learnt with them.

    Bins lie on the axis sqrt(probability), where the useful range is about evenly spread. Observed are all
    nodes drafted below the accepted walk, verified or not, because the walk's token is known there. What the
    nodes of a depth were given is compared with what happened before it is learnt (`report`).
    """

    def __init__(self, depths: int, table_LG: Floats | None = None) -> None:
        """`table_LG`: the maps to start with."""
        self.depths = depths
        self.deciles = Deciles()
        """Of the calibrated probabilities of all nodes observed, as they were given."""
        self._jumps = max(0, depths - 1).bit_length()
        self._levels = 2 * depths
        self._trust = NoiseTrust(depths)
        self._sums_QLB = np.zeros((4, self._levels, _BINS))
        self._trees: list[tuple[Ints, Ints, Ints, Floats, Floats, Bools]] = []
        self._walks: list[tuple[Sequence[int], Sequence[int]]] = []
        self._nodes: list[tuple[Ints, Floats, Bools]] = []
        self._since_flush = 0
        self._flush_every = 1
        self._steps_L = np.zeros(self._levels, np.int64)
        self._totals_QL = np.zeros((3, self._levels))
        self._errors_QLB = np.zeros((2, self._levels, _BINS))
        if table_LG is None:
            self._table_LG = np.empty((self._levels, _GRID + 1))
            self._fit(0)
            self._table_LG[1:] = self._table_LG[0]
        else:
            self._table_LG = table_LG.copy()

    @property
    def trust_D(self) -> Floats:
        """How far noise should rank the next trees, by depth. Not to be written to."""
        return self._trust.trust_D

    def table(self) -> Floats:
        """The map by level (depth 1 first), [L, G]: entry `int(sqrt(p) * (G - 1))` is the calibrated p."""
        return self._table_LG

    def apply(self, depth_X: Ints, logp_X: Floats) -> Floats:
        """Calibrated conditional probability of nodes of the given depths (1 below the root; plus D in trees
        ranked by noise)."""
        return self._table_LG.take(self._entries(depth_X, logp_X))

    def values(
        self, logprob_SN: Floats, parent_SN: Ints, depth_SN: Ints, ranked_S: Bools | None = None
    ) -> Floats:
        """Calibrated path probability of every node, [S, N]; 0 where the log-probability is -inf.

        Takes `DraftedTrees`' arrays. A node's value is below its parent's.
        """
        up_SR, step_SR = self._conditional(logprob_SN, parent_SN)
        if ranked_S is not None:
            depth_SN = depth_SN + self.depths * ranked_S[:, None]
        step_SR[:, 1:] = self.apply(depth_SN, step_SR[:, 1:])
        value_SR, up = step_SR.ravel(), up_SR.ravel()
        value_SR[:: step_SR.shape[1]] = 1.0
        for jump in range(self._jumps):
            if jump:
                up = up.take(up)
            value_SR = value_SR * value_SR.take(up)
        return value_SR.reshape(step_SR.shape)[:, 1:]

    def observe(
        self,
        token_SN: Ints,
        parent_SN: Ints,
        depth_SN: Ints,
        logprob_SN: Floats,
        walks: Sequence[tuple[Sequence[int], Sequence[int]]],
        share_SN: Floats | None = None,
        ranked_S: Bools | None = None,
    ) -> None:
        """Learn from a step: the trees as drafted and each sequence's walk (`Walk.tokens`, `Walk.nodes`).

        Node indices are those of the trees as drafted, also where only a part of them was verified. Trees
        ranked by noise are those of the last `trust_D`.
        """
        share_SN = np.zeros_like(logprob_SN) if share_SN is None else share_SN.copy()
        ranked_S = np.zeros(len(token_SN), np.bool_) if ranked_S is None else ranked_S
        trees = (token_SN.copy(), parent_SN.copy(), depth_SN.copy(), logprob_SN.copy(), share_SN, ranked_S)
        if self._trees and self._trees[-1][0].shape[1] != token_SN.shape[1]:
            self._gather()
        self._trees.append(trees)
        self._walks.extend(walks)
        self._since_flush += 1
        if self._since_flush >= self._flush_every:
            self._flush()
        elif len(self._walks) >= _GATHER:
            self._gather()

    def heir(self, keep: float = 0.2) -> Calibration:
        """One for a similar drafter: has the same maps until they are fitted anew, to what was learnt here,
        weighed down, and what it sees. Totals start at 0. Cheap: a swap waits for it."""
        heir = Calibration(self.depths, self._table_LG)
        heir._sums_QLB = keep * self._sums_QLB
        heir._trust = self._trust.heir(keep)
        return heir

    def report(self) -> dict[str, Any]:
        """Totals since the start, by depth: mean predicted and calibrated probability that one of a node's
        drafted children is taken, what was observed, and steps; `error` is the mean absolute difference of
        calibrated and observed frequency over bins, `raw_error` that of the heads. `noise_ranked` is the same
        of trees ranked by noise alone, with the trust in it by depth; None where there were none."""
        self._flush()
        every = range(self.depths), range(self.depths, self._levels)
        ranked: dict[str, Any] | None = None
        if self._steps_L[self.depths :].any():
            ranked = self._report(every[1:])
            ranked["trust"] = [round(float(trust), 3) for trust in self.trust_D]
        return {**self._report(every), "noise_ranked": ranked}

    def _report(self, classes: Sequence[range]) -> dict[str, Any]:
        """The totals of some classes of levels together."""
        by_depth = {}
        for depth, levels in enumerate(zip(*classes, strict=True)):
            steps = int(self._steps_L[[*levels]].sum())
            if steps == 0:
                continue
            totals = self._totals_QL[:, levels].sum(1)
            predicted, calibrated, observed = (float(total) / steps for total in totals)
            by_depth[str(depth + 1)] = {
                "predicted": round(predicted, 4),
                "calibrated": round(calibrated, 4),
                "observed": round(observed, 4),
                "steps": steps,
            }
        chosen = [level for levels in classes for level in levels]
        steps = max(1, int(self._steps_L[chosen].sum()))
        raw, calibrated = (float(np.abs(error_LB[chosen]).sum()) / steps for error_LB in self._errors_QLB)
        return {"depths": by_depth, "error": round(calibrated, 4), "raw_error": round(raw, 4)}

    def _conditional(self, logprob_SN: Floats, parent_SN: Ints) -> tuple[Ints, Floats]:
        """Each row's parent row as a flat index and log-probability given it, [S, R]; row 0 is the root."""
        count, nodes = logprob_SN.shape
        rows = nodes + 1
        path_SR = np.zeros((count, rows))
        np.maximum(logprob_SN, _LOWEST, out=path_SR[:, 1:])
        up_SR = np.zeros((count, rows), np.int64)
        up_SR[:, 1:] = parent_SN
        up_SR[:, 1:] += 1
        if count > 1:
            up_SR += np.arange(0, count * rows, rows)[:, None]
        return up_SR, path_SR - path_SR.take(up_SR)

    def _entries(self, depth_X: Ints, logp_X: Floats) -> Ints:
        """Flat indices into the table."""
        entry_X = (np.exp(logp_X * 0.5) * _GRID).astype(np.int64)
        np.minimum(entry_X, _GRID, out=entry_X)
        entry_X += (depth_X - 1) * (_GRID + 1)
        return entry_X

    def _gather(self) -> None:
        """Find the nodes below the pending steps' walks and what became of them."""
        if not self._trees:
            return
        token_SN, parent_SN, depth_SN, logprob_SN, share_SN, ranked_S = (
            np.concatenate(parts) for parts in zip(*self._trees, strict=True)
        )
        count, nodes = token_SN.shape
        depths = self.depths
        at_SD, token_SD = np.full((2, count, depths), -2, np.int64)
        at_SD[:, 0] = -1
        for row, (tokens, taken) in enumerate(self._walks):
            reached = min(len(tokens), depths)
            token_SD[row, :reached] = tokens[:reached]
            at_SD[row, 1:reached] = taken[: reached - 1]
        self._trees.clear()
        self._walks.clear()
        place_SN = depth_SN - 1 + np.arange(0, count * depths, depths)[:, None]
        below_X = ((at_SD.take(place_SN) == parent_SN) & (logprob_SN > _LOWEST)).ravel().nonzero()[0]
        place_X, parent_X, logp_X = place_SN.take(below_X), parent_SN.take(below_X), logprob_SN.take(below_X)
        above_X = np.maximum(below_X - below_X % nodes + parent_X, 0)
        logp_X -= np.where(parent_X >= 0, logprob_SN.take(above_X), 0.0)
        hit_X = token_SN.take(below_X) == token_SD.take(place_X)
        seen_SD = np.bincount(place_X, minlength=count * depths).reshape(count, depths) > 0
        self._steps_L[:depths] += seen_SD[~ranked_S].sum(0)
        self._steps_L[depths:] += seen_SD[ranked_S].sum(0)
        level_X = place_X % depths
        if ranked_S.any():
            ranked_X = ranked_S.take(place_X // depths)
            level_X += depths * ranked_X
            share_X = share_SN.take(below_X)[ranked_X]
            self._trust.observe(place_X[ranked_X], np.exp(logp_X[ranked_X]), share_X, hit_X[ranked_X])
        self._nodes.append((level_X, logp_X, hit_X))

    def _flush(self) -> None:
        """Enter pending observations and fit the maps."""
        self._gather()
        steps, self._since_flush = self._since_flush, 0
        self._flush_every = min(_FLUSH, 2 * self._flush_every)
        if not any(len(part[0]) for part in self._nodes):
            self._nodes.clear()
            return
        level_X, logp_X, hit_X = (np.concatenate(parts) for parts in zip(*self._nodes, strict=True))
        self._nodes.clear()
        given_X = self.apply(level_X + 1, logp_X)
        self.deciles.add(given_X, hit_X)
        root_X = np.exp(logp_X * 0.5)
        predicted_X = root_X * root_X
        bin_X = np.minimum((root_X * _BINS).astype(np.int64), _BINS - 1) + level_X * _BINS

        def total(weight_X: Floats | NDArray[np.bool_] | None) -> Floats:
            sums = np.bincount(bin_X, weight_X, minlength=self._levels * _BINS)
            return sums.reshape(self._levels, _BINS).astype(np.float64)

        hits_LB, predicted_LB, given_LB = total(hit_X), total(predicted_X), total(given_X)
        self._sums_QLB *= _KEEP ** (steps / _FLUSH)
        self._trust.update(steps / _FLUSH)
        self._sums_QLB[0] += total(None)
        self._sums_QLB[1] += total(root_X)
        self._sums_QLB[2] += hits_LB
        self._sums_QLB[3] += predicted_LB
        self._errors_QLB[0] += predicted_LB - hits_LB
        self._errors_QLB[1] += given_LB - hits_LB
        self._totals_QL += np.stack((predicted_LB, given_LB, hits_LB)).sum(-1)
        for level in np.unique(level_X).tolist():
            self._fit(level)

    def _fit(self, level: int) -> None:
        """Isotonic regression over the bins, drawn between their means and on through (0, 0)."""
        count_B, root_B, hits_B, predicted_B = self._sums_QLB[:, level]
        factor = (hits_B.sum() + _PRIOR_DEPTH) / (predicted_B.sum() + _PRIOR_DEPTH)
        centre_B = (np.arange(_BINS) + 0.5) / _BINS
        weight_B = count_B + _PRIOR
        x_B = (root_B + _PRIOR * centre_B) / weight_B
        q_B = (hits_B + _PRIOR * np.minimum(centre_B * centre_B * factor, 1.0)) / weight_B
        y_B = np.sqrt(_isotonic(q_B.tolist(), weight_B.tolist()))
        last = min(1.0, y_B[-1] / x_B[-1])
        grid_G = (np.arange(_GRID + 1) + 0.5) / _GRID
        curve_G = np.interp(grid_G, np.concatenate(([0.0], x_B, [1.0])), np.concatenate(([0.0], y_B, [last])))
        self._table_LG[level] = np.minimum(curve_G * curve_G, _HIGHEST)
        self._table_LG[level, 0] = 0.0


def _isotonic(values: list[float], weights: list[float]) -> list[float]:
    """The non-decreasing sequence nearest to `values` (pool adjacent violators)."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        size = 1
        while pools and pools[-1][0] >= value:
            before, heavy, many = pools.pop()
            value = (before * heavy + value * weight) / (heavy + weight)
            weight, size = weight + heavy, size + many
        pools.append((value, weight, size))
    return [value for value, _, size in pools for _ in range(size)]
