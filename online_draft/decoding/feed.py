"""Hidden rows on their way into the feature ring.

Shapes: N rows of steps, M of them for the ring, S slots, F hidden size.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from online_draft.decoding.runners.base import Ints, Moves, Rows, Runner
from online_draft.models.ring import FeatureRing

_MOST_STEPS = 128
_MOST_ROWS = 512


class RingFeed:
    """Gathers what steps leave behind for the feature ring and writes it down at once.

    While nothing is drafted nobody reads the ring: a plain step pays next to nothing for it. `flush` before
    the ring is read, `forget` when a slot gets another owner.
    """

    def __init__(self, runner: Runner, ring: FeatureRing) -> None:
        self.runner = runner
        self._ring = ring
        self._held: list[tuple[int, Moves]] = []
        self._stage_NF = ring.hidden_RF[:0]
        self._rows = 0
        self._since: dict[int, int] = {}

    def add(self, moves: Moves, rows: Rows, drafting: bool) -> None:
        """What a step left behind. Hidden rows may wait unless `drafting`: then the next step reads them."""
        if drafting or moves.skips:
            self.flush()
        for slot, count in moves.skips.items():
            self._ring.skip(slot, count)
        if drafting and len(moves.rows) <= self._ring.window:
            self.runner.apply(moves, rows)
            return
        if moves.sources:
            self.runner.apply(Moves(moves.sources, moves.destinations), rows)
        if moves.slots:
            self._hold(moves, rows.hidden_NF)
            if len(self._held) >= _MOST_STEPS or self._rows >= _MOST_ROWS:
                self.flush()

    def forget(self, slot: int) -> None:
        """What waits for a slot is not wanted any more."""
        if self._held:
            self._since[slot] = len(self._held)

    def flush(self) -> None:
        """Write down what waits. Idempotent."""
        held, since = self._held, self._since
        self._held, self._rows, self._since = [], 0, {}
        if not held:
            return
        rows, tokens, slots, counts = [], [], [], []
        added, starts = [], []
        for start, moves in held:
            rows += moves.rows
            tokens += moves.tokens
            slots += moves.slots
            counts += moves.counts
            added.append(len(moves.rows))
            starts.append(start)
        slot_M = np.repeat(slots, counts)
        order_M = np.argsort(slot_M, kind="stable")
        if since:
            since_S = np.zeros(self._ring.slots, dtype=np.int64)
            since_S[list(since)] = list(since.values())
            step_M = np.repeat(np.arange(len(held)), added)
            order_M = order_M[(step_M >= since_S[slot_M])[order_M]]
        if not len(order_M):
            return
        count_S = np.bincount(slot_M[order_M])
        found = np.flatnonzero(count_S)
        counts = count_S[found].tolist()
        if max(counts) > self._ring.window:
            order_M = self._newest(order_M, found.tolist(), counts)
        place_M = self._ring.claim_array(found.tolist(), counts)
        row_M = (np.array(rows) + np.repeat(starts, added))[order_M]
        self.runner.feed(place_M, self._stage_NF, row_M, np.array(tokens)[order_M])

    def _hold(self, moves: Moves, hidden_NF: Tensor) -> None:
        """Copy a step's rows to memory of our own: tensors that are kept would cost the next steps theirs."""
        end = self._rows + hidden_NF.shape[0]
        if end > len(self._stage_NF):
            grown_NF = hidden_NF.new_empty(max(end, 2 * _MOST_ROWS), hidden_NF.shape[1])
            grown_NF[: self._rows] = self._stage_NF[: self._rows]
            self._stage_NF = grown_NF
        self._stage_NF[self._rows : end].copy_(hidden_NF)
        self._held.append((self._rows, moves))
        self._rows = end

    def _newest(self, order_M: Ints, slots: list[int], counts: list[int]) -> Ints:
        """Of each slot's rows as many as the ring holds; the ring skips the others."""
        parts, at = [], 0
        for index, (slot, count) in enumerate(zip(slots, counts, strict=True)):
            counts[index] = min(count, self._ring.window)
            self._ring.skip(slot, count - counts[index])
            parts.append(order_M[at + count - counts[index] : at + count])
            at += count
        return np.concatenate(parts)
