"""Transformer layers of the drafters.

Shapes: B sequences, T rows, L context entries, D hidden size, H heads, E head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from online_draft.models.rope import Rotation, rotate


class AttentionLayer(nn.Module):
    """Pre-norm attention and SwiGLU feed-forward, both residual; projections fused as in the target.

    LayerNorm rather than RMSNorm: one kernel on the CPU, where the other takes four times as long.
    A causal decoder layer if called with rotation and mask, a full encoder layer with neither.
    Both output projections start at `output_scale` times their usual size; 0 makes the layer the identity.
    """

    def __init__(self, size: int, heads: int, intermediate: int, eps: float, output_scale: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(size, eps, bias=False)
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.out = nn.Linear(size, size, bias=False)
        self.mlp_norm = nn.LayerNorm(size, eps, bias=False)
        self.gate_up = nn.Linear(size, 2 * intermediate, bias=False)
        self.down = nn.Linear(intermediate, size, bias=False)
        for layer in (self.qkv, self.gate_up, self.out, self.down):
            scale = output_scale if layer in (self.out, self.down) else 1.0
            nn.init.normal_(layer.weight, std=scale * layer.in_features**-0.5)

    def project(self, x_BTD: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        """Queries [B, T, H, E] and keys with values [B, T, 2, H, E] of the rows, rotated if asked."""
        batch, rows, size = x_BTD.shape
        heads = self.heads
        qkv = self.qkv(self.attention_norm(x_BTD)).view(batch, rows, 3 * heads, size // heads)
        if rotation is None:
            return qkv[:, :, :heads], qkv[:, :, heads:].unflatten(2, (2, heads))
        turned = rotate(qkv[:, :, : 2 * heads], rotation)
        kv = torch.cat((turned[:, :, heads:], qkv[:, :, 2 * heads :]), dim=2)
        return turned[:, :, :heads], kv.view(batch, rows, 2, heads, -1)

    def mix(self, x_BTD: Tensor, query_BTHE: Tensor, kv_BL2HE: Tensor, mask_BTL: Tensor | None) -> Tensor:
        """The layer's output for rows with queries and context at hand; True in the mask = may attend."""
        batch, rows, size = x_BTD.shape
        mixed = functional.scaled_dot_product_attention(
            query_BTHE.transpose(1, 2),
            kv_BL2HE[:, :, 0].transpose(1, 2),
            kv_BL2HE[:, :, 1].transpose(1, 2),
            attn_mask=None if mask_BTL is None else mask_BTL.unsqueeze(1),
        )
        x_BTD = x_BTD + self.out(mixed.transpose(1, 2).reshape(batch, rows, size))
        gate, up = self.gate_up(self.mlp_norm(x_BTD)).chunk(2, dim=-1)
        changed: Tensor = self.down(functional.silu(gate) * up)
        return x_BTD + changed

    def forward(
        self, x_BTD: Tensor, rotation: Rotation | None = None, mask_BTT: Tensor | None = None
    ) -> Tensor:
        """Rows attending to each other: [B, T, D] -> [B, T, D]."""
        query, kv = self.project(x_BTD, rotation)
        return self.mix(x_BTD, query, kv, mask_BTT)
