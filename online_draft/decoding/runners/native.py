"""Steps as compiled code: one call for the draft, one for the target, one for what they leave behind."""

from __future__ import annotations

from collections.abc import Sequence as Sequences

from torch import Tensor

from online_draft.decoding.drafting.forest import DraftedTrees, Forest
from online_draft.decoding.drafting.ranking import NoiseRanking
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.runners.base import Floats, Ints, Memory, Moves, Rows
from online_draft.decoding.sequence import Sequence
from online_draft.models.drafter import Drafter, DraftState
from online_draft.models.native.backend import NativeBackend, NativeDrafting
from online_draft.models.native.target import FlatBatch

_TREE, _CHUNK = 1, 0


class NativeRunner:
    """Every sequence has as many rows as it needs: nothing is padded, no mask is made."""

    def __init__(self, backend: NativeBackend, memory: Memory) -> None:
        self._backend = backend
        self._memory = memory
        self._drafting: dict[DraftState, NativeDrafting] = {}
        self._staged: tuple[DraftState, NativeDrafting] | None = None

    def stage(self, drafter: Drafter, state: DraftState) -> None:
        """Packs the drafter's weights. The last one is kept."""
        self._staged = state, self._backend.drafting(drafter, state)

    def set_drafters(self, drafters: Sequences[tuple[Drafter, DraftState]]) -> None:
        """Packs the weights of those that are new and weren't staged."""
        known = dict(self._drafting)
        if self._staged is not None:
            known.update([self._staged])
        self._drafting = {
            state: known.get(state) or self._backend.drafting(drafter, state) for drafter, state in drafters
        }
        if self._staged is not None and self._staged[0] in self._drafting:
            self._staged = None

    @property
    def batches_freely(self) -> bool:
        """A row costs what it computes."""
        return False

    def follow(self, state: DraftState, slots: Sequences[int]) -> None:
        """Take in the ring's rows."""
        self._drafting[state].follow(self._memory.ring, slots)

    def draft(
        self,
        state: DraftState,
        sequences: list[Sequence],
        nodes: int,
        width: int,
        trust_D: Floats | None = None,
    ) -> DraftedTrees:
        """One tree per sequence."""
        slots, roots = [s.slot for s in sequences], [s.tokens[-1] for s in sequences]
        ranking = NoiseRanking.of(sequences, trust_D)
        token, parent, depth, logprob, share, _ = self._drafting[state].trees(
            self._memory.ring, slots, roots, nodes, width, ranking
        )
        ranked = None if ranking is None else ranking.ranked_S
        return DraftedTrees(token, parent, depth, logprob, share, ranked)

    def run(self, plan: StepPlan, forest: Forest | None) -> Rows:
        """One target step."""
        tokens: list[int] = []
        groups: list[tuple[int, int, int, int, int]] = []
        starts: list[int] = []
        parents: list[int] = []
        if forest is not None:
            for sequence, (nodes, above, _) in zip(plan.speculating, forest.trees(), strict=True):
                starts.append(len(tokens))
                groups.append((sequence.slot, sequence.length, len(nodes) + 1, _TREE, len(tokens)))
                tokens.append(sequence.tokens[-1])
                tokens += nodes
                parents.append(-1)
                parents += [parent + 1 for parent in above]
        plain_start = len(tokens)
        for sequence in plan.plain:
            groups.append((sequence.slot, sequence.length, 1, _CHUNK, len(tokens)))
            tokens.append(sequence.tokens[-1])
        logit_rows = list(range(len(tokens)))
        chunk_starts = []
        for chunk in plan.chunks:
            chunk_starts.append(len(tokens))
            groups.append((chunk.sequence.slot, chunk.start, chunk.count, _CHUNK, len(tokens)))
            tokens += chunk.sequence.tokens[chunk.start : chunk.start + chunk.count]
            if chunk.last:
                logit_rows.append(len(tokens) - 1)
        if parents:
            parents += [-1] * (len(tokens) - len(parents))
        batch = FlatBatch(tokens, parents, groups, logit_rows if plan.chunks else None)
        memory, target = self._memory, self._backend.target
        hidden_NF, logits_MV, best_M = target.step(batch, memory.slots.table, memory.kv)

        def sample(row: int, temperature: float, key: int) -> int:
            return target.sample(logits_MV[row], temperature, key)

        return Rows(hidden_NF, logits_MV, starts, plain_start, chunk_starts, best_M, sample)

    def logits(self, hidden_NF: Tensor) -> Tensor:
        """The LM head on a step's hidden rows: [N, F] -> [N, V]."""
        return self._backend.target.logits(hidden_NF)

    def apply(self, moves: Moves, rows: Rows) -> None:
        """Compact the cache and feed the ring."""
        memory = self._memory
        places = memory.ring.claim(moves.slots, moves.counts)
        self._backend.commit.apply(
            memory.kv,
            moves.sources,
            moves.destinations,
            memory.ring,
            places,
            rows.hidden_NF,
            moves.rows,
            moves.tokens,
        )

    def feed(self, place_M: Ints, hidden_NF: Tensor, row_M: Ints, token_M: Ints) -> None:
        """Write rows to the ring."""
        memory = self._memory
        self._backend.commit.apply(memory.kv, (), (), memory.ring, place_M, hidden_NF, row_M, token_M)
