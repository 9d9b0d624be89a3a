"""Replayed acceptance: the accepted length that serving a record with a drafter would have had.

Shapes: S records still walking, B records, T positions, N nodes, K heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from online_draft.decoding.tree import DraftTrees, build_trees
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.training.features import Features, Record, extract


@dataclass(slots=True)
class ReplayResult:
    """Integers of one record, as the engine would have counted them in `core.SpeculationCounts`.

    The first output token is a step of its own (the prefill's), so `committed` is the length of the output.
    """

    steps: int
    committed: int
    tried: list[int]
    accepted: list[int]


def mean_accepted_length(results: Sequence[ReplayResult]) -> float:
    """Replayed τ over records: tokens committed per step; nan without steps."""
    steps = sum(result.steps for result in results)
    return sum(result.committed for result in results) / steps if steps else float("nan")


def replayed_tau(
    drafter: Drafter,
    target: Target,
    records: Sequence[Record],
    nodes: int = 16,
    width: int = 8,
    batch: int = 16,
) -> list[ReplayResult]:
    """Walk the recorded tokens of each record through this drafter's trees, as the engine would.

    Exact for greedy and for sampled records alike, since the output
    is fixed by the record. `batch` records are prefilled and walked at a time.
    """
    results: list[ReplayResult] = []
    for start in range(0, len(records), batch):
        features = extract(target, records[start : start + batch])
        results += replay_features(drafter, features, nodes, width)
    return results


@torch.inference_mode()
def replay_features(drafter: Drafter, features: Features, nodes: int, width: int = 8) -> list[ReplayResult]:
    """`replayed_tau` on features at hand: all records walk in lockstep, one tree each per round."""
    heads = drafter.num_heads
    context_BTCF = drafter.context(features.hidden_BTF, features.next_tokens_BT)
    tokens_BT = torch.nn.functional.pad(features.tokens_BT, (0, heads))
    ends = features.lengths_B.tolist()
    roots = features.starts_B.tolist()
    results = [
        ReplayResult(int(root < end), int(root < end), [0] * heads, [0] * heads)
        for root, end in zip(roots, ends, strict=True)
    ]
    depth_K = torch.arange(1, heads + 1, device=tokens_BT.device)
    while True:
        walking = [row for row, root in enumerate(roots) if root < ends[row] - 1]
        if not walking:
            return results
        row_S = torch.tensor(walking, device=tokens_BT.device)
        root_S = torch.tensor([roots[row] for row in walking], device=tokens_BT.device)
        draft = drafter.draft_from(context_BTCF[row_S, root_S - 1])
        trees = build_trees(draft, tokens_BT[row_S, root_S], nodes, width)
        following_SK = tokens_BT[row_S.unsqueeze(1), root_S.unsqueeze(1) + depth_K]
        matches = _matched_depth(trees, following_SK).tolist()
        drafted = (trees.depth_SN * trees.valid_SN).amax(1).tolist()
        for row, matched, depth in zip(walking, matches, drafted, strict=True):
            left = ends[row] - 1 - roots[row]
            accepted = min(matched, left)
            committed = min(matched + 1, left)
            roots[row] += committed
            _record(results[row], committed, accepted, depth)


def _matched_depth(trees: DraftTrees, following_SK: Tensor) -> Tensor:
    """How many of the following tokens each tree holds as a path from its root, int64 [S]."""
    node_S1 = torch.full_like(following_SK[:, :1], -1)
    alive_S = torch.ones_like(following_SK[:, 0], dtype=torch.bool)
    depth_S = torch.zeros_like(following_SK[:, 0])
    for depth in range(following_SK.shape[1]):
        hit_SN = (trees.parent_SN == node_S1) & (trees.token_SN == following_SK[:, depth : depth + 1])
        hit_SN &= trees.valid_SN
        alive_S = alive_S & hit_SN.any(1)
        depth_S = depth_S + alive_S
        node_S1 = hit_SN.to(torch.uint8).argmax(1, keepdim=True)
    return depth_S


def _record(result: ReplayResult, committed: int, accepted: int, drafted: int) -> None:
    result.steps += 1
    result.committed += committed
    for depth in range(min(accepted + 1, drafted)):
        result.tried[depth] += 1
    for depth in range(accepted):
        result.accepted[depth] += 1
