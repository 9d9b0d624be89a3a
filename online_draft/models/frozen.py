"""Frozen weights in the form a step wants them.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PACKED_ROWS = 4
"""From this many rows on the packed product is faster (AVX-512, widths 192 to 2048: 1.4-2.9x at 17 rows)."""


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN can hold a copy of this weight in its own blocked layout."""
    mkldnn = torch.backends.mkldnn
    usable = bool(mkldnn.is_available()) and bool(mkldnn.enabled)  # type: ignore[no-untyped-call]
    return usable and weight.device.type == "cpu" and weight.dtype == torch.float32


class FrozenLinear:
    """A linear layer whose weight [O, I] never changes again; optionally with a second, packed copy.

    The packed product saves the repacking that a plain one does every call. Which of the two runs depends on
    the number of rows alone, so results repeat from run to run.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, pack: bool) -> None:
        self.weight_IO = weight_OI.t()
        self.bias_O = bias_O
        self._packed: Tensor | None = (
            torch.ops.mkldnn._reorder_linear_weight(weight_OI, 16) if pack and can_pack(weight_OI) else None
        )
        self._product = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, rows_NI: Tensor) -> Tensor:
        """[N, I] -> [N, O]; not differentiable."""
        if self._packed is not None and rows_NI.shape[0] >= PACKED_ROWS:
            packed: Tensor = self._product(rows_NI, self._packed, self.bias_O, "none", (), "")
            return packed
        if self.bias_O is None:
            return torch.mm(rows_NI, self.weight_IO)
        return torch.addmm(self.bias_O, rows_NI, self.weight_IO)

    def add_to(self, residual_NO: Tensor, rows_NI: Tensor) -> None:
        """Add the layer's output to `residual_NO`, in place."""
        if self._packed is not None and rows_NI.shape[0] >= PACKED_ROWS:
            residual_NO.add_(self._product(rows_NI, self._packed, self.bias_O, "none", (), ""))
            return
        residual_NO.addmm_(rows_NI, self.weight_IO)
        if self.bias_O is not None:
            residual_NO.add_(self.bias_O)


class FrozenNorm:
    """Root-mean-square norm over the last dimension, in four operations on the CPU instead of ten.

    `x * w / sqrt(mean(x^2) + eps)` is `x * (w * sqrt(I)) / hypot(|x|, sqrt(I * eps))`. Elsewhere, and for
    half precision, torch's fused norm.
    """

    def __init__(self, weight_I: Tensor, eps: float) -> None:
        self.weight_I = weight_I
        self.eps = eps
        size = weight_I.shape[0]
        self._scaled_I = weight_I * size**0.5
        self._floor = torch.full((1,), (size * eps) ** 0.5, dtype=weight_I.dtype, device=weight_I.device)
        self._lean = weight_I.device.type == "cpu" and weight_I.dtype in (torch.float32, torch.float64)

    def __call__(self, x_I: Tensor) -> Tensor:
        """[..., I] -> [..., I]."""
        if not self._lean:
            return functional.rms_norm(x_I, self.weight_I.shape, self.weight_I, self.eps)
        length = torch.linalg.vector_norm(x_I, dim=-1, keepdim=True).hypot_(self._floor)
        return x_I.div(length).mul_(self._scaled_I)
