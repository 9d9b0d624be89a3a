"""What one step changes: collected sequence by sequence, applied to the device at once."""

from __future__ import annotations

from online_draft.core import StepOutput, TokenLogprobs
from online_draft.decoding.runners.base import Moves
from online_draft.decoding.sequence import Sequence
from online_draft.decoding.verification import Walk

Logprobs = tuple[TokenLogprobs, ...] | None


class Commit:
    """The outcome of a step: outputs, and what moves in cache and feature ring.

    Rows are indices into the step's flat batch; of a prompt chunk the last `window` go into the ring.
    """

    def __init__(self, window: int) -> None:
        self.outputs: list[StepOutput] = []
        self.moves = Moves()
        self._window = window

    def root(self, sequence: Sequence, token: int, row: int, logprobs: Logprobs = None) -> None:
        """A row without a tree gave one token."""
        self._advance(sequence, Walk([token], []), [row], 0, 0, logprobs)

    def tree(
        self,
        sequence: Sequence,
        found: Walk,
        start: int,
        nodes: int,
        depth: int,
        logprobs: Logprobs = None,
        ngram: list[bool] | None = None,
    ) -> None:
        """A walk through a tree of `nodes` nodes, `depth` deep, whose root is row `start`; `ngram` says which
        of the nodes are the n-gram memory's alone."""
        length = sequence.length
        for at, node in enumerate(found.nodes, start=1):
            if node + 1 != at:
                self.moves.sources.append(sequence.kv_slots[length + node + 1])
                self.moves.destinations.append(sequence.kv_slots[length + at])
        rows = [start, *[start + node + 1 for node in found.nodes]]
        before = sequence.counts.committed
        self._advance(sequence, found, rows, nodes, depth, logprobs)
        if ngram is not None:
            taken = found.nodes[: sequence.counts.committed - before]
            sequence.counts.record_ngram(sum(ngram), [ngram[node] for node in taken])

    def prompt(self, sequence: Sequence, start: int, count: int) -> None:
        """Prompt rows start .. start + count - 1 are in the cache; the tokens behind them are known."""
        sequence.length += count
        if sequence.followed:
            kept = min(count, self._window)
            if kept < count:
                self.moves.skips[sequence.slot] = count - kept
            following = sequence.tokens[sequence.length - kept + 1 : sequence.length + 1]
            self._feed(sequence, list(range(start + count - kept, start + count)), following)

    def _advance(
        self,
        sequence: Sequence,
        found: Walk,
        rows: list[int],
        drafted: int,
        depth: int,
        logprobs: Logprobs,
    ) -> None:
        """Commit a walk's tokens; `rows` are the rows that led to them, in order."""
        tokens, text = sequence.commit(found.tokens)
        accepted = min(len(found.nodes), len(tokens))
        sequence.counts.record(len(tokens), drafted, accepted, depth)
        sequence.length += len(tokens)
        if sequence.followed and sequence.finish_reason is None:
            self._feed(sequence, rows, found.tokens)
        self.outputs.append(sequence.output(tokens, text, logprobs, (drafted, accepted) if depth else None))

    def _feed(self, sequence: Sequence, rows: list[int], next_tokens: list[int]) -> None:
        moves = self.moves
        moves.slots.append(sequence.slot)
        moves.counts.append(len(rows))
        moves.rows += rows
        moves.tokens += next_tokens
