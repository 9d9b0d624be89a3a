"""What one step does, and what the cache has done so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from online_draft.decoding.sequence import Sequence


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Prompt tokens start .. start + count - 1 of one sequence; `last` if the root is among them."""

    sequence: Sequence
    start: int
    count: int

    @property
    def last(self) -> bool:
        """Whether this chunk ends with the newest token, whose row gives the next one."""
        return self.start + self.count == len(self.sequence.tokens)


@dataclass(slots=True)
class StepPlan:
    """Sequences that draft, sequences that decode plainly, and prompt chunks of one step.

    `node_budget` is how many tree nodes the step has rows for over all sequences, each sequence having KV
    slots for `tree_nodes` of them. `admitted` got a slot, `grown` got KV slots from a position on,
    `vacated` are the slots of preempted sequences; none of the latter is given away again in the same step.
    """

    speculating: list[Sequence] = field(default_factory=list)
    plain: list[Sequence] = field(default_factory=list)
    chunks: list[PrefillChunk] = field(default_factory=list)
    node_budget: int = 0
    admitted: list[Sequence] = field(default_factory=list)
    grown: list[tuple[Sequence, int]] = field(default_factory=list)
    vacated: list[int] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.speculating or self.plain or self.chunks)

    def sequences(self) -> Iterator[Sequence]:
        """Everyone in the step."""
        yield from self.speculating
        yield from self.plain
        for chunk in self.chunks:
            yield chunk.sequence

    def give_chunk(self, sequence: Sequence, rows: int) -> int:
        """Add a sequence's next chunk of at most `rows` rows; returns how many it has."""
        count = min(rows, len(sequence.tokens) - sequence.length)
        self.chunks.append(PrefillChunk(sequence, sequence.length, count))
        return count


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the engine was made (`hits`, `misses`, `evictions` of blocks), and blocks by state now."""

    hits: int
    misses: int
    evictions: int
    preemptions: int
    blocks: int
    blocks_cached: int
    blocks_held: int
