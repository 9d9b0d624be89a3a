"""Who runs in the next step."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from online_draft.decoding.blocks import BlockAllocator
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.sequence import Sequence
from online_draft.errors import CapacityError


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
    """Sequences that draft, sequences that decode plainly, and prompt chunks of one step."""

    speculating: list[Sequence] = field(default_factory=list)
    plain: list[Sequence] = field(default_factory=list)
    chunks: list[PrefillChunk] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.speculating or self.plain or self.chunks)


class Scheduler:
    """First come, first served, with continuous batching and chunked prefill.

    A sequence is admitted when a slot and all the blocks that it can ever need are free, so that a
    running sequence never runs out of memory. Not thread-safe.
    """

    def __init__(self, config: EngineConfig, allocator: BlockAllocator) -> None:
        self._config = config
        self._allocator = allocator
        self._waiting: deque[Sequence] = deque()
        self._running: dict[str, Sequence] = {}
        self._free_slots = list(range(config.max_sequences - 1, -1, -1))

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that hold blocks."""
        return len(self._running)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._running or any(s.request.request_id == request_id for s in self._waiting)

    def enqueue(self, sequence: Sequence) -> None:
        """Put a sequence in the queue. Raises `CapacityError` when it is full."""
        if len(self._waiting) >= self._config.max_queue and len(self._running) + len(self._waiting) > 0:
            raise CapacityError(f"the queue is full ({self._config.max_queue} requests are waiting)")
        self._waiting.append(sequence)

    def admit(self) -> list[Sequence]:
        """Move sequences from the queue to the running set while slots and blocks are free."""
        admitted = []
        while self._waiting and self._free_slots:
            sequence = self._waiting[0]
            room = sequence.capacity + self._config.tree_nodes
            kv_slots = self._allocator.allocate(sequence.request.request_id, room)
            if kv_slots is None:
                break
            self._waiting.popleft()
            sequence.kv_slots = kv_slots
            sequence.slot = self._free_slots.pop()
            self._running[sequence.request.request_id] = sequence
            admitted.append(sequence)
        return admitted

    def plan(self) -> StepPlan:
        """The next step: every decoding sequence, and prompt chunks up to `prefill_rows` rows."""
        plan = StepPlan()
        budget = self._config.prefill_rows
        for sequence in self._running.values():
            if sequence.decoding:
                drafts = sequence.request.speculate and self._config.tree_nodes > 0 and sequence.remaining > 1
                (plan.speculating if drafts else plan.plain).append(sequence)
            elif budget > 0:
                count = min(budget, len(sequence.tokens) - sequence.length)
                plan.chunks.append(PrefillChunk(sequence, sequence.length, count))
                budget -= count
        return plan

    def remove(self, request_id: str) -> Sequence | None:
        """Forget a request and free what it held. Idempotent; returns it when it was running."""
        sequence = self._running.pop(request_id, None)
        if sequence is None:
            self._waiting = deque(s for s in self._waiting if s.request.request_id != request_id)
            return None
        self._allocator.release(request_id)
        self._free_slots.append(sequence.slot)
        return sequence

    def check_integrity(self) -> None:
        """Assert that slots and blocks are held by exactly the running sequences."""
        self._allocator.check_integrity()
        held = [s.slot for s in self._running.values()]
        assert sorted(held + self._free_slots) == list(range(self._config.max_sequences)), "a slot is lost"
