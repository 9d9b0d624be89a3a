"""Draft trees: which continuations of the root one step verifies.

Shapes: S sequences, W nodes per depth, C candidates, N nodes of the finished tree, R = N + 1 rows
(the root first), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from online_draft.decoding.drafting.ranking import NoiseRanking, NoiseScores
from online_draft.models.drafter import Draft

_DEPTH_PENALTY = 1e-3
"""Breaks ties between a node and its only likely child in favour of the parent."""


@dataclass(frozen=True, slots=True)
class DraftTrees:
    """One tree per sequence. Parents come before children; children of a node are distinct.

    `token_SN`, `parent_SN` (index of the parent node, -1 is the root), `depth_SN` (1 below the root),
    `logprob_SN` (log of the path's probability under the drafter), `valid_SN` (False: padding). `share_SN`
    is the part of a node's probability given its parent that its noise gives; None: noise ranked nothing.
    """

    token_SN: Tensor
    parent_SN: Tensor
    depth_SN: Tensor
    logprob_SN: Tensor
    valid_SN: Tensor
    share_SN: Tensor | None = None

    @property
    def nodes(self) -> int:
        """Nodes per tree, padding included."""
        return self.token_SN.shape[1]

    def ancestors(self) -> Tensor:
        """Which rows a row sees, bool [S, R, R]: itself, its ancestors, the root (row 0)."""
        count, nodes = self.token_SN.shape
        rows = nodes + 1
        parent_SR = torch.zeros(count, rows, dtype=torch.int64, device=self.token_SN.device)
        parent_SR[:, 1:] = self.parent_SN + 1
        sees_SRR = torch.eye(rows, dtype=torch.bool, device=parent_SR.device).repeat(count, 1, 1)
        sees_SRR[:, :, 0] = True
        index_SRR = parent_SR.unsqueeze(2).expand(-1, -1, rows)
        for _ in range(int(self.depth_SN.max()) - 1):
            sees_SRR = sees_SRR | sees_SRR.gather(1, index_SRR)
        return sees_SRR


def build_trees(
    draft: Draft, roots_S: Tensor, nodes: int, width: int, ranking: NoiseRanking | None = None
) -> DraftTrees:
    """The `nodes` most probable nodes below each root, by the product of conditional probabilities on the
    path: those of the heads, or what `ranking` makes of them.

    Level-synchronous: the `width` best nodes of each depth are expanded, then the best of all depths are
    kept; for `width >= nodes` this is best-first search. Source: EAGLE-2's expand-and-rerank.
    """
    count = roots_S.shape[0]
    levels = _Levels([], [], [], [])
    noise: NoiseScores | None = None
    token_SW = roots_S.unsqueeze(1)
    score_SW = torch.zeros_like(token_SW, dtype=draft.base_logits_SKV.dtype)
    base = -1
    total = 0
    for depth in range(draft.num_heads):
        logp_SWV = draft.log_probs(depth, token_SW)
        frontier, vocab = token_SW.shape[1], logp_SWV.shape[-1]
        noisy_SWV: Tensor | None = None
        if ranking is not None:
            if noise is None:
                ids_V = torch.arange(vocab, device=logp_SWV.device) if draft.ids_V is None else draft.ids_V
                noise = NoiseScores(ranking, ids_V)
            logp_SWV, noisy_SWV = noise(depth, logp_SWV)
        best_SWC, child_SWC = logp_SWV.topk(min(width, vocab), dim=-1)
        path_SWC = score_SW.unsqueeze(2) + best_SWC
        share_SWC = None if noisy_SWV is None else (noisy_SWV.gather(2, child_SWC) - best_SWC).exp_()
        if draft.ids_V is not None:
            child_SWC = draft.ids_V[child_SWC]
        if child_SWC.shape[1] != frontier:
            child_SWC = child_SWC.expand(-1, frontier, -1)
            share_SWC = None if share_SWC is None else share_SWC.expand(-1, frontier, -1)
        per_parent = path_SWC.shape[2]
        score_SW, pick_SW = path_SWC.reshape(count, -1).topk(min(width, frontier * per_parent), dim=-1)
        token_SW = child_SWC.reshape(count, -1).gather(1, pick_SW)
        levels.tokens.append(token_SW)
        levels.parents.append(torch.div(pick_SW, per_parent, rounding_mode="floor") + base)
        levels.scores.append(score_SW)
        if share_SWC is not None:
            levels.shares.append(share_SWC.reshape(count, -1).gather(1, pick_SW))
        base = total
        total += token_SW.shape[1]
    return _keep_best(levels, nodes)


@dataclass(slots=True)
class _Levels:
    """What was followed, depth after depth; parents count over all depths. `shares` may be empty."""

    tokens: list[Tensor]
    parents: list[Tensor]
    scores: list[Tensor]
    shares: list[Tensor]


def _keep_best(levels: _Levels, nodes: int) -> DraftTrees:
    """Rerank all depths' candidates together; the result stays closed under "parent of"."""
    sizes = [level.shape[1] for level in levels.tokens]
    token_SC, parent_SC = torch.cat(levels.tokens, 1), torch.cat(levels.parents, 1)
    score_SC = torch.cat(levels.scores, 1)
    depth_C = torch.cat([torch.full((n,), d + 1, device=token_SC.device) for d, n in enumerate(sizes)])
    keep = min(nodes, token_SC.shape[1])
    chosen_SN = (score_SC - _DEPTH_PENALTY * depth_C).topk(keep, dim=-1).indices.sort(dim=-1).values
    new_index_SC = torch.zeros_like(token_SC)
    order_N = torch.arange(keep, device=token_SC.device)
    new_index_SC.scatter_(1, chosen_SN, order_N.expand_as(chosen_SN))
    old_parent_SN = parent_SC.gather(1, chosen_SN)
    parent_SN = new_index_SC.gather(1, old_parent_SN.clamp(min=0)).masked_fill(old_parent_SN < 0, -1)
    logprob_SN = score_SC.gather(1, chosen_SN)
    return DraftTrees(
        token_SN=token_SC.gather(1, chosen_SN),
        parent_SN=parent_SN,
        depth_SN=depth_C[chosen_SN],
        logprob_SN=logprob_SN,
        valid_SN=logprob_SN > float("-inf"),
        share_SN=torch.cat(levels.shares, 1).gather(1, chosen_SN) if levels.shares else None,
    )
