"""Hidden rows on their way into the feature ring.

Shapes: N rows, F hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from online_draft.decoding.runners.base import Moves, Rows, Runner

_MOST = 32


class RingFeed:
    """Gathers what steps without trees leave behind and writes it down at once.

    While nothing is drafted nobody reads the ring: a plain step pays next to nothing for it. `flush`
    before the ring is read, and before a slot is forgotten.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._held: list[tuple[Tensor, Moves]] = []

    def add(self, moves: Moves, rows: Rows) -> None:
        """What a step left behind; rows that only go to the ring may wait."""
        if moves.sources or len(moves.rows) != len(moves.slots):
            self.flush()
            self.runner.apply(moves, rows)
            return
        if moves.rows:
            self._held.append((rows.hidden_NF, moves))
            if len(self._held) >= _MOST:
                self.flush()

    def flush(self) -> None:
        """Write down what waits. Idempotent."""
        held, self._held = self._held, []
        if not held:
            return
        gathered, start = Moves(), 0
        for hidden_NF, moves in held:
            gathered.slots += moves.slots
            gathered.counts += moves.counts
            gathered.tokens += moves.tokens
            gathered.rows += [start + row for row in moves.rows]
            start += hidden_NF.shape[0]
        hidden_NF = held[0][0] if len(held) == 1 else torch.cat([hidden for hidden, _ in held])
        self.runner.apply(gathered, Rows(hidden_NF, hidden_NF, [], 0, []))
