"""The target's hidden states, made by replicas that have nothing else to do.

Shapes: B rows, T positions, X hidden size with that of further layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from online_draft.errors import OnlineDraftError
from online_draft.training.prefill_order import PrefillOrder, PrefillReply

MOST_TOKENS = 2048
"""Of one order, unless one row is longer: bounds a message, and a replica's memory for it."""
LEAST_TOKENS = 64
SLICE_MS = 10.0
"""Orders are sized so that a layer of them takes so long at most: a request waits for one."""
TRIES = 4
"""Replicas that are asked for one part."""

Call = Callable[[PrefillOrder, Sequence[str]], PrefillReply]
"""Has one replica, none of those named if possible, work on an order. May raise FeaturesAway."""


class FeaturesAway(OnlineDraftError):
    """Nobody makes features now; the message says why. Nothing has changed: ask again later."""


class ReplicaFeatures:
    """A `FeatureSource`. Not thread-safe, but for `status`.

    A batch is ordered in parts of some rows, one after the other, in sizes that follow what slices took. When
    replicas get busy half-way, what was made waits for the same batch to be asked for again.
    """

    def __init__(self, call: Call, slice_ms: float = SLICE_MS) -> None:
        self.target = ""
        """Fingerprint of the target whose features are wanted."""
        self.interrupted: Callable[[], bool] = lambda: False
        """Asked before each part: whether there is no time for it any more."""
        self._call = call
        self._slice_ms = slice_ms
        self._tokens = LEAST_TOKENS
        self._made: list[tuple[PrefillOrder, Tensor]] = []
        self._counts = {"tokens": 0, "bytes": 0, "orders": 0, "busy": 0, "failed": 0}

    def status(self) -> dict[str, Any]:
        """Plain data: token positions that were made, their bytes on the way, orders; how often a replica was
        busy, or could not do it."""
        return {"from": "replica", **self._counts}

    def forget(self) -> None:
        """Keep nothing of what was asked."""
        self._made = []

    def prefill_hidden(
        self,
        token_ids_BT: Tensor,
        lengths_B: Tensor,
        layers: tuple[int, ...] = (),
        first_BT: Tensor | None = None,
    ) -> Tensor:
        """As `Target.prefill_hidden`, on the CPU, in the numbers in which the replicas compute. Blocks for as
        long as they take; FeaturesAway when they don't."""
        whole = PrefillOrder.of(self.target, token_ids_BT, lengths_B, layers, first_BT)
        made: list[tuple[PrefillOrder, Tensor]] = []
        kept, self._made = self._made, made
        avoid: list[str] = []
        row = 0
        for order, hidden_BTX in kept:
            if not order.same(whole.part(row, row + len(order.lengths_B))):
                break
            made.append((order, hidden_BTX))
            row += len(order.lengths_B)
        while row < len(whole.lengths_B):
            if self.interrupted():
                raise FeaturesAway("a request came")
            end = self._end_of_part(whole, row)
            order = whole.part(row, end)
            made.append((order, self._ordered(order, avoid)))
            row = end
        self._made = []
        width = token_ids_BT.shape[1]
        rows = [torch.nn.functional.pad(part, (0, 0, 0, width - part.shape[1])) for _, part in made]
        return torch.cat(rows)

    def _end_of_part(self, whole: PrefillOrder, start: int) -> int:
        """Behind the last row of the part that begins with `start`: as many as fit, one at least."""
        end, longest = start + 1, int(whole.lengths_B[start])
        for length in whole.lengths_B[start + 1 :].tolist():
            longest = max(longest, length)
            if (end + 1 - start) * longest > self._tokens:
                break
            end += 1
        return end

    def _ordered(self, order: PrefillOrder, avoid: list[str]) -> Tensor:
        """One part's hidden states [B, T, X]. `avoid` gets the replicas that didn't make it."""
        reason = ""
        for _ in range(TRIES):
            reply = self._call(order, avoid)
            if reply.outcome == "made" and reply.target == order.target:
                return self._taken(order, reply)
            reason = self._noted(reply)
            if reply.replica in avoid:
                break
            avoid.append(reply.replica)
        raise FeaturesAway(reason)

    def _taken(self, order: PrefillOrder, reply: PrefillReply) -> Tensor:
        try:
            hidden_BTX = reply.hidden(order)
        except ValueError as error:
            self._counts["failed"] += 1
            raise FeaturesAway(f"a replica's answer is of no use: {error}") from error
        assert reply.rows is not None
        self._counts["orders"] += 1
        self._counts["tokens"] += len(reply.rows)
        self._counts["bytes"] += reply.rows.nbytes
        fitting = order.positions * self._slice_ms / max(reply.slice_ms, 0.01)
        self._tokens = max(LEAST_TOKENS, min(int(fitting), 2 * self._tokens, MOST_TOKENS))
        return hidden_BTX

    def _noted(self, reply: PrefillReply) -> str:
        """Why nothing came of an order, in words."""
        if reply.outcome == "busy":
            self._counts["busy"] += 1
            return "no replica is idle"
        if reply.outcome == "failed":
            self._counts["failed"] += 1
            return f"a replica can't make features: {reply.reason}"
        return f"the replicas serve another target, {reply.target}"
