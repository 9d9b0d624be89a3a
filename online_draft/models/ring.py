"""The last hidden rows of every sequence: all that a drafter needs to rebuild its state.

Shapes: M rows of one sequence, N rows of several, S slots, W window, F hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_epochs = count(1)


class FeatureRing:
    """Per slot the last `window` target hidden rows and the token that followed each.

    Row i holds the hidden state (the LM head's input) at absolute position i and the token at i + 1. Only
    committed rows enter, so a rejected draft leaves nothing to undo. `end[slot]` is the next row's position.
    """

    def __init__(
        self,
        slots: int,
        window: int,
        hidden_size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.slots = slots
        self.window = window
        self.begin = [0] * slots
        self.end = [0] * slots
        self.epoch = [0] * slots
        """Unique over all rings, new with every reset: tells a drafter to drop its state."""
        self.hidden_RF = torch.zeros(slots * window, hidden_size, dtype=dtype, device=device)
        self.next_tokens_R = torch.zeros(slots * window, dtype=torch.int64, device=device)
        for slot in range(slots):
            self.reset(slot)

    def reset(self, slot: int) -> None:
        """Forget a slot's rows; the next one has position 0 unless `rebase` says otherwise. Idempotent."""
        self.begin[slot] = self.end[slot] = 0
        self.epoch[slot] = next(_epochs)

    def rebase(self, slot: int, position: int) -> None:
        """After `reset`: the first appended row has this absolute position (a cached prefix came before)."""
        if self.begin[slot] != self.end[slot]:
            raise ValueError(f"slot {slot} already holds rows; reset it before rebase")
        self.begin[slot] = self.end[slot] = position

    def append(self, slot: int, hidden_MF: Tensor, next_tokens_M: Tensor) -> None:
        """Add rows of consecutive positions to one slot; of more than `window` rows the last are kept."""
        rows = hidden_MF.shape[0]
        self.end[slot] += rows
        kept = min(rows, self.window)
        base, start = slot * self.window, (self.end[slot] - kept) % self.window
        hidden_MF, next_tokens_M = hidden_MF[rows - kept :], next_tokens_M[rows - kept :]
        first = min(kept, self.window - start)
        self.hidden_RF[base + start : base + start + first] = hidden_MF[:first]
        self.next_tokens_R[base + start : base + start + first] = next_tokens_M[:first]
        if first < kept:
            self.hidden_RF[base : base + kept - first] = hidden_MF[first:]
            self.next_tokens_R[base : base + kept - first] = next_tokens_M[first:]

    def append_many(
        self, slots: Sequence[int], counts: Sequence[int], hidden_NF: Tensor, next_tokens_N: Tensor
    ) -> None:
        """Add `counts[s]` rows to `slots[s]` from flat rows, slot after slot, in one write.

        A slot may come up again; all its rows together are at most `window`.
        """
        index_N = torch.from_numpy(self.claim_array(slots, counts)).to(self.hidden_RF.device)
        self.hidden_RF.index_copy_(0, index_N, hidden_NF)
        self.next_tokens_R.index_copy_(0, index_N, next_tokens_N)

    def skip(self, slot: int, rows: int) -> None:
        """Rows too old to keep came by: the next position moves on. At least `window` rows must follow."""
        self.end[slot] += rows

    def claim_array(self, slots: Sequence[int], counts: Sequence[int]) -> NDArray[np.int64]:
        """`claim` for many rows."""
        ends = []
        for slot, rows in zip(slots, counts, strict=True):
            ends.append(self.end[slot])
            self.end[slot] += rows
        count_S, end_S = np.array(counts), np.array(ends)
        rank_N = np.arange(count_S.sum()) - np.repeat(count_S.cumsum() - count_S, count_S)
        base_S = np.array(slots) * self.window
        index_N: NDArray[np.int64] = (
            np.repeat(base_S, count_S) + (np.repeat(end_S, count_S) + rank_N) % self.window
        )
        return index_N

    def claim(self, slots: Sequence[int], counts: Sequence[int]) -> list[int]:
        """Flat indices of the next `counts[s]` rows of `slots[s]`, which the caller fills; moves the ends."""
        index: list[int] = []
        for slot, rows in zip(slots, counts, strict=True):
            base, end = slot * self.window, self.end[slot]
            index += [base + position % self.window for position in range(end, end + rows)]
            self.end[slot] = end + rows
        return index

    def available(self, slot: int) -> int:
        """How many rows of a slot can be read."""
        return min(self.window, self.end[slot] - self.begin[slot])

    def rows(self, slot: int, count: int) -> tuple[Tensor, Tensor]:
        """The last `count` rows, oldest first: hidden [count, F] and next tokens [count].

        Raises ValueError when fewer are available.
        """
        if count > self.available(slot):
            raise ValueError(f"slot {slot} holds {self.available(slot)} rows, {count} were asked for")
        first = self.end[slot] - count
        position_M = torch.arange(first, first + count, device=self.hidden_RF.device)
        return self.gather(slot * self.window + position_M % self.window)

    def gather(self, index_X: Tensor) -> tuple[Tensor, Tensor]:
        """Rows by flat index `slot * window + position % window`, any shape: hidden [*X, F], tokens [*X]."""
        flat = index_X.reshape(-1)
        hidden = self.hidden_RF.index_select(0, flat).view(*index_X.shape, self.hidden_RF.shape[1])
        return hidden, self.next_tokens_R.index_select(0, flat).view(index_X.shape)
