"""Replayed acceptance: the accepted length that serving a record with a drafter would have had.

Shapes: S records still walking, B records, T positions, N nodes, K heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from online_draft.decoding.drafting.ranking import NoiseRanking
from online_draft.decoding.drafting.tree import DraftTrees, build_trees
from online_draft.decoding.policy.trust import prior_trust
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.training.features import Features, Record, extract


@dataclass(slots=True)
class ReplayResult:
    """Integers of one record, as the engine would have counted them in `core.SpeculationCounts`.

    The first output token is a step of its own (the prefill's), so `committed` is the length of the output.
    `first_tried` and `first_hits`, if asked for: nodes of the walk by depth that had children, and those
    whose likeliest child was right.
    """

    steps: int
    committed: int
    tried: list[int]
    accepted: list[int]
    first_tried: list[int] = field(default_factory=list)
    first_hits: list[int] = field(default_factory=list)


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
    noise_ranked: bool = True,
) -> list[ReplayResult]:
    """Walk the recorded tokens of each record through this drafter's trees, as the engine would.

    Exact for greedy and for sampled records alike, since the output is fixed by the record. With
    `noise_ranked`, trees of sampled records are ranked by the record's own noise, with the trust in it that
    serving begins with. `batch` records are prefilled and walked at a time.
    """
    results: list[ReplayResult] = []
    for start in range(0, len(records), batch):
        features = extract(target, records[start : start + batch], layers=drafter.feature_layers)
        results += replay_features(drafter, features, nodes, width, noise_ranked)
    return results


@torch.inference_mode()
def replay_features(
    drafter: Drafter,
    features: Features,
    nodes: int,
    width: int = 8,
    noise_ranked: bool = True,
    first_choices: bool = False,
) -> list[ReplayResult]:
    """`replayed_tau` on features at hand: all records walk in lockstep, one tree each per round. Counts the
    likeliest children, too, if `first_choices` are asked for."""
    heads = drafter.num_heads
    noise = _Noise(features, heads) if noise_ranked else None
    context_BTCF = drafter.context(features.rows_BTX, features.next_tokens_BT)
    tokens_BT = torch.nn.functional.pad(features.tokens_BT, (0, heads))
    ends = features.lengths_B.tolist()
    roots = features.starts_B.tolist()
    results = [
        ReplayResult(int(root < end), int(root < end), [0] * heads, [0] * heads)
        for root, end in zip(roots, ends, strict=True)
    ]
    if first_choices:
        for result in results:
            result.first_tried, result.first_hits = [0] * heads, [0] * heads
    depth_K = torch.arange(1, heads + 1, device=tokens_BT.device)
    while True:
        walking = [row for row, root in enumerate(roots) if root < ends[row] - 1]
        if not walking:
            return results
        row_S = torch.tensor(walking, device=tokens_BT.device)
        root_S = torch.tensor([roots[row] for row in walking], device=tokens_BT.device)
        draft = drafter.draft_from(drafter.at(context_BTCF, row_S, root_S - 1))
        ranking = None if noise is None else noise.ranking(walking, roots)
        trees = build_trees(draft, tokens_BT[row_S, root_S], nodes, width, ranking)
        following_SK = tokens_BT[row_S.unsqueeze(1), root_S.unsqueeze(1) + depth_K]
        matches = _matched_depth(trees, following_SK).tolist()
        if first_choices:
            left_S = torch.tensor([ends[row] - 1 - roots[row] for row in walking], device=tokens_BT.device)
            tried_SK, hit_SK = _first_choices(trees, following_SK)
            tried_SK &= depth_K <= left_S.unsqueeze(1)
            for row, tried, hit in zip(walking, tried_SK.tolist(), (hit_SK & tried_SK).tolist(), strict=True):
                _add(results[row].first_tried, tried)
                _add(results[row].first_hits, hit)
        drafted = (trees.depth_SN * trees.valid_SN).amax(1).tolist()
        for row, matched, depth in zip(walking, matches, drafted, strict=True):
            left = ends[row] - 1 - roots[row]
            accepted = min(matched, left)
            committed = min(matched + 1, left)
            roots[row] += committed
            _record(results[row], committed, accepted, depth)


class _Noise:
    """How the noise of sampled records ranks their trees."""

    def __init__(self, features: Features, heads: int) -> None:
        streams_B = features.streams_B
        self._streams_B = None if streams_B is None else streams_B.cpu().numpy()
        self._temperatures_B = features.temperatures_B.double().cpu().numpy()
        self._trust_D = prior_trust(heads)

    def ranking(self, rows: list[int], roots: list[int]) -> NoiseRanking | None:
        """For some records, at their roots."""
        temperature_S = self._temperatures_B[rows]
        if self._streams_B is None or not temperature_S.any():
            return None
        position_S = np.array([roots[row] + 1 for row in rows], np.int64)
        return NoiseRanking(temperature_S, self._streams_B[rows], position_S, self._trust_D)


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


def _first_choices(trees: DraftTrees, following_SK: Tensor) -> tuple[Tensor, Tensor]:
    """Bool [S, K]: does the walk reach a node with children there, and is its likeliest child the next token?
    Siblings are in order of their probability."""
    node_S1 = torch.full_like(following_SK[:, :1], -1)
    alive_S = torch.ones_like(following_SK[:, 0], dtype=torch.bool)
    tried, hits = [], []
    for depth in range(following_SK.shape[1]):
        next_S1 = following_SK[:, depth : depth + 1]
        child_SN = (trees.parent_SN == node_S1) & trees.valid_SN
        first_S1 = child_SN.to(torch.uint8).argmax(1, keepdim=True)
        tried.append(alive_S & child_SN.any(1))
        hits.append(tried[-1] & (trees.token_SN.gather(1, first_S1) == next_S1).squeeze(1))
        hit_SN = child_SN & (trees.token_SN == next_S1)
        alive_S = alive_S & hit_SN.any(1)
        node_S1 = hit_SN.to(torch.uint8).argmax(1, keepdim=True)
    return torch.stack(tried, 1), torch.stack(hits, 1)


def _add(counts: list[int], seen: list[bool]) -> None:
    for depth, value in enumerate(seen):
        counts[depth] += value


def _record(result: ReplayResult, committed: int, accepted: int, drafted: int) -> None:
    result.steps += 1
    result.committed += committed
    for depth in range(min(accepted + 1, drafted)):
        result.tried[depth] += 1
    for depth in range(accepted):
        result.accepted[depth] += 1
