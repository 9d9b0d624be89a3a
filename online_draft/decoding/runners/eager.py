"""Steps in torch, on any device: trees padded to the same size, masks made per step."""

from __future__ import annotations

from collections.abc import Sequence as Sequences

import numpy as np
import torch
from torch import Tensor

from online_draft.decoding.batch import build_batch
from online_draft.decoding.drafting.forest import DraftedTrees, Forest
from online_draft.decoding.drafting.ranking import NoiseRanking
from online_draft.decoding.drafting.tree import DraftTrees, build_trees
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.runners.base import Floats, Ints, Memory, Moves, Rows
from online_draft.decoding.sequence import Sequence
from online_draft.models.drafter import Drafter, DraftState
from online_draft.models.target import Target


class EagerRunner:
    """Plain torch operations."""

    def __init__(self, target: Target, memory: Memory) -> None:
        self._target = target
        self._memory = memory
        self._drafters: dict[DraftState, Drafter] = {}

    def stage(self, drafter: Drafter, state: DraftState) -> None:
        """Nothing has to be got ready."""

    def set_drafters(self, drafters: Sequences[tuple[Drafter, DraftState]]) -> None:
        """Draft with these heads."""
        self._drafters = {state: drafter for drafter, state in drafters}

    @property
    def batches_freely(self) -> bool:
        """Not on a CPU."""
        return self._target.device.type != "cpu"

    def follow(self, state: DraftState, slots: Sequences[int]) -> None:
        """Take in the ring's rows."""
        self._drafters[state].newest(state, self._memory.ring, slots)

    def draft(
        self,
        state: DraftState,
        sequences: list[Sequence],
        nodes: int,
        width: int,
        trust_D: Floats | None = None,
    ) -> DraftedTrees:
        """One tree per sequence. One synchronisation with the device."""
        draft = self._drafters[state].draft(state, self._memory.ring, [s.slot for s in sequences])
        roots_S = torch.tensor([s.tokens[-1] for s in sequences], device=self._target.device)
        ranking = NoiseRanking.of(sequences, trust_D)
        return DraftedTrees.from_device(build_trees(draft, roots_S, nodes, width, ranking), ranking)

    def run(self, plan: StepPlan, forest: Forest | None) -> Rows:
        """One target step."""
        trees = None if forest is None else _padded(forest, self._target.device)
        batch = build_batch(plan, trees, self._memory.slots, self._target.config.max_position_embeddings - 1)
        hidden_NF = self._target(batch.rows, self._memory.kv)
        chosen_MF = hidden_NF if batch.logit_rows is None else hidden_NF[batch.logit_rows]
        rows = 0 if trees is None else trees.nodes + 1
        starts = [index * rows for index in range(len(plan.speculating))] if trees is not None else []
        return Rows(hidden_NF, self._target.logits(chosen_MF), starts, len(starts) * rows, batch.chunk_starts)

    def logits(self, hidden_NF: Tensor) -> Tensor:
        """The LM head on a step's hidden rows: [N, F] -> [N, V]."""
        return self._target.logits(hidden_NF)

    def apply(self, moves: Moves, rows: Rows) -> None:
        """Compact the cache and feed the ring."""
        device = self._target.device
        if moves.sources:
            sources, destinations = torch.tensor([moves.sources, moves.destinations], device=device)
            self._memory.kv.move(sources, destinations)
        if moves.slots:
            fresh_NF = rows.hidden_NF[torch.tensor(moves.rows, device=device)]
            tokens_N = torch.tensor(moves.tokens, device=device)
            self._memory.ring.append_many(moves.slots, moves.counts, fresh_NF, tokens_N)

    def feed(self, place_M: Ints, hidden_NF: Tensor, row_M: Ints, token_M: Ints) -> None:
        """Write rows to the ring."""
        ring, device = self._memory.ring, self._target.device
        places, rows, tokens = (torch.from_numpy(part).to(device) for part in (place_M, row_M, token_M))
        ring.hidden_RF.index_copy_(0, places, hidden_NF.index_select(0, rows))
        ring.next_tokens_R.index_copy_(0, places, tokens)


def _padded(forest: Forest, device: torch.device) -> DraftTrees:
    """The forest as trees of equal size. Padding hangs below the root and is never walked into."""
    count_S = np.array(forest.counts)
    real_SM = np.arange(count_S.max(initial=0)) < count_S[:, None]
    token_SM = np.zeros(real_SM.shape, np.int64)
    parent_SM = np.full(real_SM.shape, -1)
    depth_SM = np.ones(real_SM.shape, np.int64)
    token_SM[real_SM], parent_SM[real_SM] = forest.token_K, forest.parent_K
    depth_SM[real_SM] = forest.depth_K
    token, parent, depth, valid = (
        torch.from_numpy(part).to(device) for part in (token_SM, parent_SM, depth_SM, real_SM)
    )
    return DraftTrees(token, parent, depth, torch.zeros(real_SM.shape, device=device), valid)
