"""Which positions of a slice are so far from the others that they must not be learnt from.

Shapes: B rows, A anchors, K heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FENCE = 3.0
"""In interquartile ranges above the upper quartile (Tukey 1977: "far out")."""


def inliers(losses_BAK: Tensor, weights_BAK: Tensor, trim: float) -> Tensor:
    """True [B, A] but for the anchors with the largest mean losses: those far outside of what is usual in
    this slice, and at most the part `trim` of all, so that new traffic, unlike the old, is still learnt."""
    weight_BA = weights_BAK.sum(-1)
    sum_BA = torch.where(weights_BAK > 0, losses_BAK.detach() * weights_BAK, 0.0).sum(-1)
    mean_BA = sum_BA / weight_BA.clamp(min=1e-9)
    real_BA = (weight_BA > 0) & mean_BA.isfinite()
    mean_N = mean_BA[real_BA].float()
    keep_BA = torch.ones_like(real_BA)
    most = int(trim * len(mean_N))
    if not most:
        return keep_BA
    low, high = torch.quantile(mean_N, mean_N.new_tensor([0.25, 0.75]))
    fence = torch.maximum(high + _FENCE * (high - low), mean_N.topk(most + 1).values[-1])
    return ~(real_BA & (mean_BA > fence))
