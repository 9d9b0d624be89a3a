"""Which records each micro-batch trains on: every epoch in another order, always the same for a seed."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from online_draft.errors import ConfigError

Rows = list[list[int]]
"""Numbers of the records in each row of a micro-batch."""


class Batches:
    """Micro-batches of `rows` rows, one record each, or with `pack` as many as fit in `max_tokens` tokens.

    `lengths` are the records' tokens. Every record is seen once an epoch; micro-batches don't cross epochs.
    """

    def __init__(
        self, lengths: Sequence[int], rows: int, max_tokens: int, pack: bool = False, seed: int = 0
    ) -> None:
        if not lengths:
            raise ConfigError("prompts", "there are no records to train on")
        self._lengths = lengths
        self._rows = rows
        self._max_tokens = max_tokens
        self._pack = pack
        self._seed = seed
        self._counts: list[int] = []
        """Micro-batches of each epoch so far."""
        self._epoch: tuple[int, list[Rows]] = (-1, [])

    def at(self, index: int) -> Rows:
        """The micro-batch with this number, counted from 0 over all epochs."""
        while (ends := list(accumulate(self._counts))) == [] or ends[-1] <= index:
            self._counts.append(len(self._of(len(self._counts))))
        epoch = bisect_right(ends, index)
        return self._of(epoch)[index - (ends[epoch - 1] if epoch else 0)]

    def _of(self, epoch: int) -> list[Rows]:
        if self._epoch[0] != epoch:
            order = list(range(len(self._lengths)))
            Random(f"{self._seed}:{epoch}").shuffle(order)
            self._epoch = epoch, list(self._packed(order) if self._pack else self._single(order))
        return self._epoch[1]

    def _single(self, order: list[int]) -> list[Rows]:
        starts = range(0, len(order), self._rows)
        return [[[number] for number in order[start : start + self._rows]] for start in starts]

    def _packed(self, order: list[int]) -> list[Rows]:
        """First fit: a record goes to the first row with room. After as many misfits as there are rows the
        next micro-batch begins, with them."""
        batches: list[Rows] = []
        waiting = deque(order)
        while waiting:
            rows: Rows = []
            left: list[int] = []
            missed: list[int] = []
            while waiting and len(missed) < self._rows:
                number = waiting.popleft()
                tokens = min(self._lengths[number], self._max_tokens)
                row = next((i for i, room in enumerate(left) if room >= tokens), None)
                if row is None and len(rows) == self._rows:
                    missed.append(number)
                    continue
                if row is None:
                    row = len(rows)
                    rows.append([])
                    left.append(self._max_tokens)
                rows[row].append(number)
                left[row] -= tokens
            batches.append(rows)
            waiting.extendleft(reversed(missed))
        return batches
