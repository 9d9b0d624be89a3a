"""What one step changes: collected sequence by sequence, applied to the device tensors at once."""

from __future__ import annotations

import torch
from torch import Tensor

from online_draft.core import StepOutput
from online_draft.decoding.sequence import Sequence
from online_draft.decoding.verification import Walk
from online_draft.models.kv import KVCache
from online_draft.models.ring import FeatureRing


class Commit:
    """The outcome of a step: outputs, KV rows to move, hidden rows for the feature ring.

    Rows are indices into the step's flat batch.
    """

    def __init__(self, version: str | None) -> None:
        self.outputs: list[StepOutput] = []
        self._version = version
        self._sources: list[int] = []
        self._targets: list[int] = []
        self._prompts: list[tuple[int, int, list[int]]] = []
        self._slots: list[int] = []
        self._counts: list[int] = []
        self._rows: list[int] = []
        self._next_tokens: list[int] = []

    def root(self, sequence: Sequence, token: int, row: int) -> None:
        """A row without a tree gave one token."""
        self._advance(sequence, Walk([token], []), [row], drafted=0, depth=0)

    def tree(self, sequence: Sequence, found: Walk, start: int, nodes: int, depth: int) -> None:
        """A walk through a tree of `nodes` nodes, `depth` deep, whose root is row `start`."""
        length = sequence.length
        for at, node in enumerate(found.nodes, start=1):
            if node + 1 != at:
                self._sources.append(sequence.kv_slots[length + node + 1])
                self._targets.append(sequence.kv_slots[length + at])
        rows = [start, *(start + node + 1 for node in found.nodes)]
        self._advance(sequence, found, rows, nodes, depth)

    def prompt(self, sequence: Sequence, start: int, count: int) -> None:
        """Prompt rows start .. start + count - 1 are in the cache; the tokens behind them are known."""
        sequence.length += count
        if sequence.request.speculate:
            following = sequence.tokens[sequence.length - count + 1 : sequence.length + 1]
            self._prompts.append((sequence.slot, start, following))

    def apply(self, hidden_NF: Tensor, kv: KVCache, ring: FeatureRing) -> None:
        """Compact the accepted KV rows and give the ring the new hidden rows."""
        device = hidden_NF.device
        if self._sources:
            kv.move(torch.tensor(self._sources, device=device), torch.tensor(self._targets, device=device))
        for slot, start, following in self._prompts:
            ring.append(
                slot, hidden_NF[start : start + len(following)], torch.tensor(following, device=device)
            )
        if self._slots:
            rows = self._rows
            neighbours = rows[-1] - rows[0] + 1 == len(rows) and rows == list(range(rows[0], rows[-1] + 1))
            fresh_NF = hidden_NF[rows[0] : rows[-1] + 1] if neighbours else hidden_NF[rows]
            next_tokens_N = torch.tensor(self._next_tokens, device=device)
            ring.append_many(self._slots, self._counts, fresh_NF, next_tokens_N)

    def _advance(self, sequence: Sequence, found: Walk, rows: list[int], drafted: int, depth: int) -> None:
        """Commit a walk's tokens; `rows` are the rows that led to them, in order."""
        tokens, text = sequence.commit(found.tokens)
        sequence.counts.record(len(tokens), drafted, min(len(found.nodes), len(tokens)), depth)
        if sequence.finish_reason is None:
            sequence.length += len(rows)
            if sequence.request.speculate:
                self._feed(sequence, rows, found.tokens)
        version = self._version if sequence.request.speculate else None
        self.outputs.append(sequence.output(tokens, text, version))

    def _feed(self, sequence: Sequence, rows: list[int], next_tokens: list[int]) -> None:
        self._slots.append(sequence.slot)
        self._counts.append(len(rows))
        self._rows += rows
        self._next_tokens += next_tokens
