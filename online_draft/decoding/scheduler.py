"""Who runs in the next step, and who holds which KV blocks."""

from __future__ import annotations

import math
import time
from bisect import insort
from collections.abc import Callable, Iterable

from online_draft.decoding.blocks import BlockPool
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.plan import CacheStats, StepPlan
from online_draft.decoding.policy.profile import StepProfile
from online_draft.decoding.sequence import Sequence
from online_draft.errors import CapacityError


class Scheduler:
    """Continuous batching by priority, then first come, first served; chunked prefill under a row budget.

    A sequence is admitted when there is a slot, row budget for its first chunk, and free blocks for its
    tokens and one step's tree; shared prefixes count as present. It grows block by block. When blocks run
    out, the last in order of all running is preempted: it gives everything back and waits in its old place,
    to be computed again. The first in order is never preempted for others, so all get done. Not thread-safe.
    """

    def __init__(
        self, config: EngineConfig, pool: BlockPool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._pool = pool
        self._clock = clock
        self._sequences: dict[str, Sequence] = {}
        self._waiting: list[Sequence] = []
        self._running: dict[str, Sequence] = {}
        self._by_slot: list[Sequence | None] = [None] * config.max_sequences
        self._free_slots = list(range(config.max_sequences - 1, -1, -1))
        self._deadlines: dict[str, float] = {}
        self._profile: StepProfile | None = None
        self._room: dict[int, int] = {}
        self._next_deadline = math.inf
        self._arrivals = 0
        self._stalled: tuple[Sequence, int] | None = None
        self._holding = False
        self._hits = self._misses = self._preemptions = 0

    @property
    def waiting(self) -> int:
        """Requests in the queue, preempted ones included."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that hold blocks."""
        return len(self._running)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._sequences

    def sequences(self) -> Iterable[Sequence]:
        """All that are running or waiting."""
        return self._sequences.values()

    def in_slot(self, slot: int) -> Sequence | None:
        """The running sequence of a slot."""
        return self._by_slot[slot]

    def room_for(self, sequence: Sequence, tokens: int) -> int:
        """Blocks for `tokens` tokens and the rows of one step's tree, the part that isn't committed."""
        return self._pool.blocks_for(tokens + self._tree_rows(sequence))

    def enqueue(self, sequence: Sequence) -> None:
        """Put a sequence in the queue. `CapacityError` when it is full, those left out that get a slot."""
        if len(self._waiting) - len(self._free_slots) >= self._config.max_queue:
            raise CapacityError(f"the queue is full ({self._config.max_queue} requests are waiting)")
        request = sequence.request
        self._arrivals += 1
        sequence.order = (request.priority, self._arrivals)
        self._sequences[request.request_id] = sequence
        insort(self._waiting, sequence, key=_order)
        if request.deadline_s is not None:
            due = self._clock() + request.deadline_s
            self._deadlines[request.request_id] = due
            self._next_deadline = min(self._next_deadline, due)

    def expire(self) -> list[Sequence]:
        """Remove the sequences whose deadline has passed; those that ran still name their former slot."""
        if not self._deadlines:
            return []
        now = self._clock()
        if now < self._next_deadline:
            return []
        expired = [self._sequences[name] for name, due in self._deadlines.items() if due <= now]
        for sequence in expired:
            self.remove(sequence.request.request_id)
        self._next_deadline = min(self._deadlines.values(), default=math.inf)
        return expired

    def pace(self, profile: StepProfile | None) -> None:
        """What steps cost, from which prompt rows beside decoding ones are measured out."""
        self._profile = profile
        self._room.clear()

    def plan(self, nodes: int, expected_nodes: int = 0) -> StepPlan:
        """The next step: every decoding sequence, of which some draft up to `nodes` nodes, and prompt chunks.

        `expected_nodes` are the tree rows that the step will probably have over all sequences.

        Roots come first, then chunks, for which trees leave what they can; a prompt always gets on by a few
        rows.
        """
        plan = StepPlan()
        self._grow(plan)
        prefilling = []
        for sequence in self._running.values():
            if not sequence.decoding:
                prefilling.append(sequence)
            elif nodes > 0 and self._may_draft(sequence) and sequence.remaining > 1:
                plan.speculating.append(sequence)
            else:
                plan.plain.append(sequence)
        roots = len(plan.speculating) + len(plan.plain)
        trees = nodes * sum(sequence.followed for sequence in plan.speculating)
        free = self._config.step_rows - roots
        if prefilling or self._waiting:
            limit = min(free, self._prefill_limit(roots, min(trees, expected_nodes)))
            rows = max(min(limit, self._config.block_size), min(limit, free - trees))
            free -= rows - self._prefill(plan, prefilling, rows)
        plan.node_budget = free
        if free < len(plan.speculating):
            plan.plain, plan.speculating = plan.speculating + plan.plain, []
        return plan

    def settle(self, sequence: Sequence) -> None:
        """After a step: let others find the blocks that it filled."""
        size = self._config.block_size
        full = sequence.length // size
        if full == sequence.registered or not self._config.prefix_cache:
            return
        keys = sequence.block_keys(full, size)
        for index in range(sequence.registered, full):
            self._pool.register(keys[index], sequence.blocks[index])
        sequence.registered = full

    def hold_back(self) -> list[int]:
        """Until `let_through` only sequences that have begun to answer run; the others wait, and give back
        what they hold. Returns the slots that they had. Idempotent."""
        self._holding = True
        plan = StepPlan()
        for sequence in [s for s in self._running.values() if not s.generated]:
            self._preempt(sequence, plan)
        return plan.vacated

    def let_through(self) -> None:
        """The end of `hold_back`."""
        self._holding = False

    @property
    def answering(self) -> list[Sequence]:
        """Sequences that have begun to answer, whether they run or wait."""
        return [sequence for sequence in self._sequences.values() if sequence.generated]

    def remove(self, request_id: str) -> Sequence | None:
        """Forget a request and free what it held. Idempotent; returns it when it was running."""
        known = self._sequences.pop(request_id, None)
        if known is None:
            return None
        self._deadlines.pop(request_id, None)
        if request_id not in self._running:
            self._waiting.remove(known)
            return None
        self._vacate(known)
        return known

    def stats(self) -> CacheStats:
        """Counts of the KV cache."""
        pool = self._pool
        return CacheStats(
            hits=self._hits,
            misses=self._misses,
            evictions=pool.evictions,
            preemptions=self._preemptions,
            blocks=pool.usable,
            blocks_cached=pool.cached,
            blocks_held=pool.usable - pool.available,
        )

    def check_integrity(self) -> None:
        """Assert that blocks, slots and queues are held by exactly who should hold them."""
        running = list(self._running.values())
        self._pool.check_integrity([s.blocks for s in running])
        size = self._config.block_size
        for sequence in running:
            assert self._by_slot[sequence.slot] is sequence, "a slot has another owner"
            slots = [block * size + offset for block in sequence.blocks for offset in range(size)]
            assert slots == sequence.kv_slots, "blocks and KV slots differ"
            assert sequence.cached <= sequence.length <= len(slots), "a length is wrong"
            assert sequence.length < len(sequence.tokens), "the root is in the cache"
            for block in sequence.blocks[sequence.length // size :]:
                assert self._pool.is_private(block), "a block that is written is shared"
        held = [s.slot for s in running]
        assert sorted(held + self._free_slots) == list(range(self._config.max_sequences)), "a slot is lost"
        assert sum(s is not None for s in self._by_slot) == len(running), "a slot has a former owner"
        for sequence in self._waiting:
            assert sequence.slot == -1 and not sequence.blocks, "a waiting request holds something"
        assert self._waiting == sorted(self._waiting, key=_order), "the queue is out of order"
        known = {s.request.request_id: s for s in (*running, *self._waiting)}
        assert known == self._sequences, "a request is lost"
        assert self._deadlines.keys() <= known.keys(), "a deadline has no request"

    def _tree_rows(self, sequence: Sequence) -> int:
        return self._config.tree_nodes if self._may_draft(sequence) else 0

    def _may_draft(self, sequence: Sequence) -> bool:
        return sequence.followed or (self._config.ngram and sequence.request.speculate)

    def _prefill_limit(self, roots: int, nodes: int) -> int:
        """Prompt rows beside decoding ones: as many as make the step take about twice as long, or, without a
        profile, have twice as many rows."""
        config = self._config
        if not roots:
            return config.prefill_rows
        rows = roots + nodes
        if rows not in self._room:
            self._room[rows] = rows if self._profile is None else self._profile.room_beside(rows)
        return max(config.prefill_rows_busy, min(config.prefill_rows, self._room[rows]))

    def _grow(self, plan: StepPlan) -> None:
        """Give every running sequence blocks for the next step, preempting from the end where needed."""
        for sequence in list(self._running.values()):
            missing = len(sequence.tokens) + self._tree_rows(sequence) - len(sequence.kv_slots)
            if missing <= 0 or sequence.slot < 0:
                continue
            count = self._pool.blocks_for(missing)
            taken = self._pool.take(count, sequence.blocks[-1])
            while taken is None:
                last = max(self._running.values(), key=_order)
                self._preempt(last, plan)
                if last is sequence:
                    break
                taken = self._pool.take(count, sequence.blocks[-1])
            else:
                plan.grown.append((sequence, len(sequence.kv_slots)))
                sequence.take(taken, self._config.block_size)
        if plan.vacated:
            plan.grown = [grown for grown in plan.grown if grown[0].slot >= 0]

    def _preempt(self, sequence: Sequence, plan: StepPlan) -> None:
        plan.vacated.append(sequence.slot)
        self._vacate(sequence)
        sequence.let_go()
        insort(self._waiting, sequence, key=_order)
        self._preemptions += 1

    def _prefill(self, plan: StepPlan, prefilling: list[Sequence], rows: int) -> int:
        """Hand out `rows` rows to prompts, running ones first, then admitted ones; returns what is left."""
        for sequence in sorted(prefilling, key=_order):
            if not rows:
                return 0
            rows -= plan.give_chunk(sequence, rows)
        while rows and self._free_slots and not plan.vacated:
            first = self._next()
            if first is None or not self._admit(first):
                break
            self._waiting.remove(first)
            plan.admitted.append(first)
            plan.grown.append((first, 0))
            rows -= plan.give_chunk(first, rows)
        return rows

    def _next(self) -> Sequence | None:
        """Who is admitted next."""
        return next((s for s in self._waiting if s.generated > 0 or not self._holding), None)

    def _admit(self, sequence: Sequence) -> bool:
        """Let a sequence run if there are blocks for it, and one more for each that runs already."""
        pool, size = self._pool, self._config.block_size
        if self._stalled == (sequence, pool.changes):
            return False
        shared, sought = self._match(sequence)
        fresh = self.room_for(sequence, len(sequence.tokens)) - len(shared)
        if fresh + pool.idle(shared) + len(self._running) > pool.available:
            self._stalled = (sequence, pool.changes)
            return False
        pool.share(shared)
        taken = pool.take(fresh, shared[-1] if shared else 0)
        assert taken is not None
        sequence.take(shared + taken, size)
        sequence.length = sequence.cached = len(shared) * size
        sequence.registered = len(shared)
        sequence.slot = self._free_slots.pop()
        self._by_slot[sequence.slot] = sequence
        self._running[sequence.request.request_id] = sequence
        self._hits += len(shared)
        self._misses += sought - len(shared)
        return True

    def _match(self, sequence: Sequence) -> tuple[list[int], int]:
        """Blocks that hold a prefix of a sequence's tokens, and how many there were to look for."""
        if not self._config.prefix_cache or sequence.sampling.prompt_logprobs is not None:
            return [], 0
        kept = self._config.prefix_recompute if self._tree_rows(sequence) else 1
        sought = max(0, len(sequence.tokens) - kept) // self._config.block_size
        return self._pool.prefixes.match(sequence.block_keys(sought, self._config.block_size)), sought

    def _vacate(self, sequence: Sequence) -> None:
        del self._running[sequence.request.request_id]
        self._pool.release(sequence.blocks)
        sequence.blocks = []
        self._free_slots.append(sequence.slot)
        self._by_slot[sequence.slot] = None


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order
