"""Root-mean-square normalisation, the only norm of the supported families."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class RMSNorm(nn.Module):
    """`weight * x / sqrt(mean(x^2) + eps)` over the last dimension (Zhang & Sennrich 2019).

    Any leading shape; the result has the input's dtype. The mean is accumulated in float32 for float16 and
    bfloat16 input, and in the input's own dtype otherwise (float64 stays float64).
    """

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x_D: Tensor) -> Tensor:
        """[..., size] -> [..., size]."""
        return functional.rms_norm(x_D, self.weight.shape, self.weight, self.eps)
