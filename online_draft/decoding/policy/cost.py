"""Seconds of a step by what it contains: profiled at start-up, corrected by what steps take.

Shapes: C counts of nodes over the whole batch (0 … C - 1), K row buckets of the profile.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from online_draft.decoding.policy.profile import StepProfile

Floats = NDArray[np.float64]

_OUTLIER = math.log(1.5)
_LARGEST = math.log(2.0)
"""What one observation may claim at most, once it is believed; more where the last one is long ago."""
_LARGEST_STALE = math.log(4.0)
_GLOBAL_RATE = 0.08
_MEMORY = 50.0
_STALE = 64.0
"""Steps after which an unvisited correction is trusted half as much."""
_PLAIN, _DRAFTED, _FREE = _KINDS = range(3)
_STIR = 0.01
"""Tables are made anew when the corrections have moved this far (log of the ratio)."""


class CostModel:
    """cost(rows, sequences, drafted) = profile x drift of the machine x correction of the kind x that of the
    kind's row bucket.

    Kinds are plain steps, those with a draft, and those that verify nodes for which none was needed. The
    drift, common to all, follows a machine that slows down or recovers, so that a kind that is not run at the
    moment keeps its proportion. Corrections that were not visited for long learn fast when they are again.
    Else one outlier changes nothing; a second of the same sign and kind in a row is believed. With `padded`
    (static shapes), rows cost what the next larger bucket costs.
    """

    def __init__(self, profile: StepProfile, padded: bool = False) -> None:
        self.profile = profile
        self.padded = padded
        self._rows = list(profile.rows)
        self._seconds_K = np.array(profile.row_seconds)
        count = len(self._rows)
        self.drift = 0.0
        """Log of the common factor between the profile and the machine as it is now."""
        # By kind, then bucket; the last entry is the whole kind's.
        self._correction = [[0.0] * (count + 1) for _ in _KINDS]
        self._weight = [[0.0] * (count + 1) for _ in _KINDS]
        self._seen = [[0] * (count + 1) for _ in _KINDS]
        self._streak = [0 for _ in _KINDS]
        self._steps = 0
        self._moved = 0.0
        self._tables: dict[tuple[int, int, int], list[float]] = {}
        self._plain: dict[int, float] = {}

    def plain(self, rows: int) -> float:
        """Seconds of a step of this many rows without drafting."""
        known = self._plain.get(rows)
        if known is None:
            known = self._plain[rows] = self._cost(rows, 0, _PLAIN)
        return known

    def speculative(self, sequences: int, others: int, count: int) -> list[float]:
        """Seconds of a step that drafts for `sequences` (none: the nodes come for nothing) and verifies 0 …
        count - 1 nodes, beside `others` rows, [C]. Not to be written to."""
        key = (sequences, others, count)
        known = self._tables.get(key)
        if known is None:
            if len(self._tables) >= 64:
                self._tables.clear()
            rows_C = np.arange(sequences + others, sequences + others + count, dtype=np.float64)
            if self.padded:
                index_C = np.searchsorted(self._rows, rows_C)
                inside_C = np.asarray(self._rows)[np.minimum(index_C, len(self._rows) - 1)]
                rows_C = np.maximum(rows_C, inside_C)
            seconds_C = np.interp(rows_C, self._rows, self._seconds_K) + self._beyond(rows_C)
            seconds_C += self._draft(sequences) + self.profile.host_seconds
            correction = self._corrections(_DRAFTED if sequences else _FREE)
            seconds_C *= np.exp(np.interp(rows_C, self._rows, correction[:-1]) + correction[-1] + self.drift)
            known = self._tables[key] = seconds_C.tolist()
        return known

    def observe(self, rows: int, sequences: int, drafted: bool, seconds: float) -> None:
        """Learn from a step without prompt chunks: `rows` in all; `drafted` it verified nodes, for which the
        heads of `sequences` sequences were run."""
        if seconds <= 0:
            return
        kind = _PLAIN if not drafted else _DRAFTED if sequences else _FREE
        rows = self._executed(rows)
        self._steps += 1
        error = math.log(seconds / self._cost(rows, sequences, kind))
        if not self._weight[kind][-1]:
            self._correction[kind] = list(self._corrections(kind))
        knots = self._knots(rows)
        if self._steps - max(self._seen[kind][index] for index, _ in knots) > _STALE:
            error = max(-_LARGEST_STALE, min(_LARGEST_STALE, error))
        elif abs(error) > _OUTLIER:
            sign = 1 if error > 0 else -1
            streak = self._streak[kind]
            self._streak[kind] = streak + sign if streak * sign > 0 else sign
            if abs(self._streak[kind]) < 2:
                return
            error = max(-_LARGEST, min(_LARGEST, error))
        else:
            self._streak[kind] = 0
        squares = sum(share * share for _, share in knots)
        for index, share in knots:
            self._learn(kind, index, share, 0.5 * share / squares * error)
        self._learn(kind, -1, 1.0, 0.5 * error)
        self.drift += _GLOBAL_RATE * error
        self._moved += abs(error) * _GLOBAL_RATE
        if self._moved > _STIR:
            self._moved = 0.0
            self._tables.clear()
            self._plain.clear()

    def _corrections(self, kind: int) -> list[float]:
        """By bucket; the last one is the whole kind's. Nodes that came for nothing are at first taken to cost
        what drafted ones do."""
        if kind == _FREE and not self._weight[_FREE][-1]:
            return self._correction[_DRAFTED]
        return self._correction[kind]

    def _learn(self, kind: int, index: int, share: float, error: float) -> None:
        """Move one correction; bucket and kind take away half of 1 / (1 + weight) of the error each."""
        gap = self._steps - self._seen[kind][index]
        weight = self._weight[kind][index] * _STALE / (_STALE + gap - 1)
        step = error / (1.0 + weight)
        self._correction[kind][index] += step
        self._moved += abs(step)
        self._weight[kind][index] = min(_MEMORY, weight + share)
        self._seen[kind][index] = self._steps

    def _cost(self, rows: int, sequences: int, kind: int) -> float:
        """Seconds by the present corrections."""
        rows = self._executed(rows)
        known = self._corrections(kind)
        base, correction = 0.0, self.drift + known[-1]
        for index, share in self._knots(rows):
            base += share * self.profile.row_seconds[index]
            correction += share * known[index]
        if rows > self._rows[-1]:
            base += float(self._beyond(np.float64(rows)))
        if kind == _DRAFTED:
            base += self._draft(sequences)
        return (base + self.profile.host_seconds) * math.exp(correction)

    def _executed(self, rows: int) -> int:
        """Rows that are run for this many."""
        if self.padded and rows <= self._rows[-1]:
            return self._rows[bisect_right(self._rows, rows - 1)]
        return rows

    def _knots(self, rows: int) -> list[tuple[int, float]]:
        """The buckets beside a number of rows and their shares."""
        right = bisect_right(self._rows, rows)
        if right == 0:
            return [(0, 1.0)]
        if right == len(self._rows):
            return [(right - 1, 1.0)]
        low, high = self._rows[right - 1], self._rows[right]
        share = (rows - low) / (high - low)
        return [(right - 1, 1.0 - share), (right, share)] if share else [(right - 1, 1.0)]

    def _beyond(self, rows: Floats | np.float64) -> Floats:
        """What rows beyond the last bucket add, by the slope between the last two (through 0 for one)."""
        low, high = (0, 0.0), (self._rows[-1], self.profile.row_seconds[-1])
        if len(self._rows) > 1:
            low = (self._rows[-2], self.profile.row_seconds[-2])
        slope = max(0.0, (high[1] - low[1]) / (high[0] - low[0]))
        extra: Floats = np.maximum(rows - high[0], 0.0) * slope
        return extra

    def _draft(self, sequences: int) -> float:
        """Profiled seconds of a draft."""
        if not sequences:
            return 0.0
        sizes, seconds = self.profile.sequences, self.profile.draft_seconds
        right = bisect_right(sizes, sequences)
        if right == 0:
            return seconds[0]
        if right == len(sizes):
            return seconds[-1] * (sequences / sizes[-1] if len(sizes) > 1 else 1.0)
        share = (sequences - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return seconds[right - 1] * (1.0 - share) + seconds[right] * share
