"""Steps recorded once per size and replayed: what a CUDA device needs to run without waiting for the host.

Shapes: N rows of the flat batch, M rows with logits, F hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Sequences
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting.forest import DraftedTrees, Forest
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.policy.profile import row_buckets
from online_draft.decoding.runners.base import Floats, Ints, Memory, Moves, Rows
from online_draft.decoding.runners.capture import Capture
from online_draft.decoding.runners.eager import EagerRunner
from online_draft.decoding.runners.flat import FlatRows, flat_rows
from online_draft.decoding.runners.static import (
    StaticResults,
    StaticRows,
    StaticShape,
    bucket_for,
    extended_buckets,
    power_of_two,
    upload,
)
from online_draft.decoding.sampling import score_type
from online_draft.decoding.sequence import Sequence
from online_draft.models.drafter import Drafter, DraftState
from online_draft.models.paged_attention import (
    gathered_attention,
    kernel_attention,
    kernel_available,
    paged_forward,
)
from online_draft.models.target import Target

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_HALF_TOLERANCE = 0.1
"""How far a row may be from torch's, by its length."""
_GATHER_LIMIT = 1 << 16
"""Rows times context entries that are gathered at most where there is no kernel."""
_TRIALS = 2


@dataclass(slots=True)
class _Step:
    """A step of one shape: run directly at first, then recorded; believed after `_TRIALS` comparisons."""

    inputs: StaticRows
    results: StaticResults
    run: Callable[[], None]
    uses: int = 0
    recorded: bool = False


class GraphedRunner:
    """Target steps at padded sizes through recorded graphs; drafts, and whatever has none, as `EagerRunner`.

    The rows of a step are padded to the profile's buckets. A shape's first two steps are run twice, here and
    eagerly, and give the eager result: the first without a graph, the second through its new one. Any error,
    or a result that differs, ends the use of graphs with a warning; the eager runner goes on. (An error that
    leaves the device unusable can't be helped here.) Results stay valid until the next step.

    Graphs read weights by address. A target changed in place keeps its graphs; one whose parameters moved
    loses them. Drafters are run without graphs: a swap needs nothing.

    Not yet run on a device: tests on the CPU re-run the recorded function instead of a graph.
    """

    def __init__(
        self,
        target: Target,
        memory: Memory,
        config: EngineConfig,
        capture: Capture,
        kernel: bool | None = None,
        given_up: Callable[[], None] | None = None,
    ) -> None:
        """`kernel` False does without the Triton kernel; None uses it where there is one. `given_up` is
        called when graphs are."""
        self._target = target
        self._memory = memory
        self._capture = capture
        self._eager = EagerRunner(target, memory)
        self._kernel = kernel_available(target.dtype) if kernel is None else kernel
        self._given_up = given_up
        self._sequences = config.max_sequences
        self._buckets = extended_buckets(
            row_buckets(config.max_sequences, config.tree_nodes), config.step_rows
        )
        self._heads = 0
        self._steps: dict[StaticShape, _Step] = {}
        self._hidden: dict[int, Tensor] = {}
        self._logits: dict[int, tuple[Tensor, Tensor]] = {}
        self._used = 0
        self._stack = target.frozen()
        self._addresses = self._parameter_addresses()
        self.failed = False
        """Whether graphs were given up."""

    def stage(self, drafter: Drafter, state: DraftState) -> None:
        """Nothing has to be got ready."""

    def set_drafters(self, drafters: Sequences[tuple[Drafter, DraftState]]) -> None:
        """Draft with these heads."""
        self._eager.set_drafters(drafters)
        self._heads = max((drafter.config.num_heads for drafter, _ in drafters), default=0)

    @property
    def batches_freely(self) -> bool:
        """As eagerly."""
        return self._eager.batches_freely

    def follow(self, state: DraftState, slots: Sequences[int]) -> None:
        """Take in the ring's rows."""
        self._eager.follow(state, slots)

    def draft(
        self,
        state: DraftState,
        sequences: list[Sequence],
        nodes: int,
        width: int,
        trust_D: Floats | None = None,
    ) -> DraftedTrees:
        """One tree per sequence. One synchronisation with the device."""
        return self._eager.draft(state, sequences, nodes, width, trust_D)

    def run(self, plan: StepPlan, forest: Forest | None) -> Rows:
        """One target step. Waits for the device only where a result is compared."""
        if self.failed:
            return self._eager.run(plan, forest)
        rows = None
        # Compilers and drivers raise what they like; serving goes on.
        try:
            flat = flat_rows(plan, forest, self._target.config.max_position_embeddings - 1)
            step = self._step_for(flat)
            if step is not None:
                rows = self._execute(step, flat)
                if step.uses > _TRIALS:
                    return rows
        except Exception as error:
            self._give_up(f"{type(error).__name__}: {error}")
            rows = None
        # Last, so that the eager step's K/V are the ones that stay.
        expected = self._eager.run(plan, forest)
        if rows is not None:
            try:
                if not _agree(rows, expected, plan, forest):
                    self._give_up("a step's result differs from the eager one")
            except RuntimeError as error:
                self._give_up(f"a step can't be compared with the eager one: {error}")
        return expected

    def logits(self, hidden_NF: Tensor) -> Tensor:
        """The LM head on a step's hidden rows: [N, F] -> [N, V]."""
        return self._eager.logits(hidden_NF)

    def apply(self, moves: Moves, rows: Rows) -> None:
        """Compact the cache and feed the ring. One copy to the device."""
        memory, device = self._memory, self._target.device
        places = memory.ring.claim(moves.slots, moves.counts)
        parts = (moves.sources, moves.destinations, places, moves.rows, moves.tokens)
        values = np.array([value for part in parts for value in part], dtype=np.int64)
        if not values.size:
            return
        sizes = [len(part) for part in parts]
        sources, destinations, place_R, row_R, token_R = torch.split(upload(values, device), sizes)
        if moves.sources:
            memory.kv.move(sources, destinations)
        if moves.slots:
            memory.ring.hidden_RF.index_copy_(0, place_R, rows.hidden_NF.index_select(0, row_R))
            memory.ring.next_tokens_R.index_copy_(0, place_R, token_R)

    def feed(self, place_M: Ints, hidden_NF: Tensor, row_M: Ints, token_M: Ints) -> None:
        """Write rows to the ring."""
        self._eager.feed(place_M, hidden_NF, row_M, token_M)

    def _step_for(self, flat: FlatRows) -> _Step | None:
        """The step of this size; None where there is to be none."""
        stack = self._target.frozen()
        if stack is not self._stack:
            self._stack = stack
            addresses = self._parameter_addresses()
            if addresses != self._addresses:
                self._addresses = addresses
                self._drop()
        shape = self._shape(flat)
        if shape is None:
            return None
        step = self._steps.get(shape)
        if (step is None or not step.recorded) and self._used >= self._capture.limit_bytes:
            return None
        if step is None:
            step = self._steps[shape] = self._make(shape)
        return step

    def _shape(self, flat: FlatRows) -> StaticShape | None:
        rows = bucket_for(flat.rows, self._buckets)
        if rows is None:
            return None
        depth = flat.chain_NA.shape[1]
        chain = power_of_two(max(depth, self._heads)) if depth else 0
        logits = rows
        if flat.logit_rows_M is not None:
            logits = min(rows, power_of_two(max(1, flat.logits)))
        if self._kernel:
            return StaticShape(rows, chain, logits)
        context = min(max(64, power_of_two(flat.longest)), self._memory.slots.table.shape[1])
        if rows * context > _GATHER_LIMIT:
            return None
        return StaticShape(rows, chain, logits, context)

    def _make(self, shape: StaticShape) -> _Step:
        target, memory = self._target, self._memory
        inputs = StaticRows(shape, self._sequences, memory.slots.table)
        results = self._results(shape)
        rows = inputs.rows

        def run() -> None:
            if shape.context:
                attend = gathered_attention(rows, memory.kv, target.dtype, shape.context)
            else:
                attend = kernel_attention(rows, memory.kv)
            hidden_NF = paged_forward(target, memory.kv, rows, attend)
            results.hidden_NF.copy_(hidden_NF)
            chosen_MF = hidden_NF.index_select(0, inputs.logit_rows_M)
            results.logits_MV.copy_(target.logits(chosen_MF))
            results.greedy_M.copy_(results.logits_MV.argmax(-1))

        return _Step(inputs, results, run)

    def _results(self, shape: StaticShape) -> StaticResults:
        target = self._target
        hidden_NF = self._hidden.get(shape.rows)
        if hidden_NF is None:
            hidden_NF = target.embedding_VF.new_empty(shape.rows, target.config.hidden_size)
            self._hidden[shape.rows] = hidden_NF
            self._used += hidden_NF.nbytes
        if shape.logits not in self._logits:
            logits_MV = target.embedding_VF.new_empty(shape.logits, target.config.vocab_size)
            greedy_M = torch.empty(shape.logits, dtype=torch.int64, device=target.device)
            self._logits[shape.logits] = logits_MV, greedy_M
            self._used += logits_MV.nbytes
        return StaticResults(hidden_NF, *self._logits[shape.logits])

    def _execute(self, step: _Step, flat: FlatRows) -> Rows:
        step.inputs.fill(flat)
        if step.uses and not step.recorded:
            recorded = self._capture.record(step.run)
            self._used += recorded.nbytes
            step.run, step.recorded = recorded.replay, True
        step.run()
        step.uses += 1
        results, count = step.results, flat.logits
        return Rows(
            results.hidden_NF[: flat.rows],
            results.logits_MV[:count],
            flat.tree_starts,
            flat.plain_start,
            flat.chunk_starts,
            greedy_M=results.greedy_M[:count],
            reused=True,
        )

    def _parameter_addresses(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self._target.parameters()]

    def _drop(self) -> None:
        """Forget all graphs and what they write to."""
        self._steps.clear()
        self._hidden.clear()
        self._logits.clear()
        self._used = 0

    def _give_up(self, why: str) -> None:
        logger.warning("decoding goes on without CUDA graphs: %s", why)
        self.failed = True
        self._drop()
        if self._given_up is not None:
            self._given_up()


def _agree(rows: Rows, expected: Rows, plan: StepPlan, forest: Forest | None) -> bool:
    """Whether a step gave what the eager one (with its padded trees) did. Waits for the device."""
    index: list[int] = []
    for start, count in zip(expected.tree_starts, [] if forest is None else forest.counts, strict=True):
        index += range(start, start + count + 1)
    roots = expected.plain_start
    lasts = sum(chunk.last for chunk in plan.chunks)
    logit_index = index + list(range(roots, roots + len(plan.plain) + lasts))
    index += range(roots, roots + len(plan.plain))
    for start, chunk in zip(expected.chunk_starts, plan.chunks, strict=True):
        index += range(start, start + chunk.count)
    return _close(rows.hidden_NF, expected.hidden_NF[index]) and _close(
        rows.logits_MV, expected.logits_MV[logit_index]
    )


def _close(rows_NX: Tensor, expected_NX: Tensor) -> bool:
    """Whether each row is as long an error from its expectation at most as its type allows; no NaN is."""
    kind = score_type(rows_NX.dtype)
    error_N = torch.linalg.vector_norm(rows_NX - expected_NX, dim=-1, dtype=kind)
    length_N = torch.linalg.vector_norm(expected_NX, dim=-1, dtype=kind)
    return bool((error_N <= _TOLERANCE.get(rows_NX.dtype, _HALF_TOLERANCE) * length_N).all())
