"""Which positions of which records one micro-batch trains on.

Shapes: B records, T positions, A anchors, K heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from online_draft.training.features import Features


@dataclass(frozen=True, slots=True)
class Anchors:
    """Sampled anchor positions and how much each counts.

    At anchor t the token t + 1 is known (the root) and head k (0-based) learns token t + 2 + k.
    `weights_BAK` is the inverse of the chance to be sampled, 0 where the label lies behind the record's end.
    `total_BK` is what weights add up to in expectation: the full count of labels.
    """

    positions_BA: Tensor
    labels_BAK: Tensor
    parents_BAK: Tensor
    teachers_BAK: Tensor
    """Position whose hidden state gives the teacher's distribution of the label."""
    weights_BAK: Tensor
    total_BK: Tensor


def sample_anchors(features: Features, count: int, heads: int, generator: torch.Generator) -> Anchors:
    """At most `count` anchors a record, evenly spaced from a random start: every anchor is as likely.

    All anchors whose first label lies in the output are candidates; the first is the last prompt position.
    """
    device = features.tokens_BT.device
    first_B1 = (features.starts_B - 1).clamp(min=0).unsqueeze(1)
    candidates_B1 = (features.lengths_B.unsqueeze(1) - 2 - first_B1).clamp(min=0)
    columns = max(1, min(count, int(candidates_B1.max())))
    offset_B1 = torch.rand(candidates_B1.shape, generator=generator).to(device)
    column_A = torch.arange(columns, device=device)
    stride_B1 = (candidates_B1 / columns).clamp(min=1.0)
    index_BA = ((column_A + offset_B1 * (stride_B1 > 1)) * stride_B1).long()
    real_BA = index_BA < candidates_B1
    last_B1 = features.lengths_B.unsqueeze(1) - 1
    positions_BA = torch.where(real_BA, first_B1 + index_BA, 0)
    depth_K = torch.arange(heads, device=device)
    label_BAK = positions_BA.unsqueeze(2) + 2 + depth_K
    inside_BAK = real_BA.unsqueeze(2) & (label_BAK <= last_B1.unsqueeze(2))
    label_BAK = label_BAK.clamp(max=features.tokens_BT.shape[1] - 1)
    flat = label_BAK.flatten(1)
    return Anchors(
        positions_BA=positions_BA,
        labels_BAK=features.tokens_BT.gather(1, flat).view(label_BAK.shape),
        parents_BAK=features.tokens_BT.gather(1, flat - 1).view(label_BAK.shape),
        teachers_BAK=label_BAK - 1,
        weights_BAK=inside_BAK * stride_B1.unsqueeze(2),
        total_BK=(candidates_B1 - depth_K).clamp(min=0),
    )
