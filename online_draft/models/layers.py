"""Transformer layers of the drafters.

Shapes: B sequences, T rows, L context entries, D hidden size, H heads, E head size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from online_draft.models.adapters.stack import Changes
from online_draft.models.frozen import FrozenLinear
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

    def forward(
        self,
        x_BTD: Tensor,
        rotation: Rotation | None = None,
        mask_BTL: Tensor | None = None,
        context_BCD: Tensor | None = None,
    ) -> Tensor:
        """Rows attending to each other, [B, T, D] -> [B, T, D]; True in the mask = may attend.

        With a context the rows attend to its C rows first (L = C + T), which attend to nothing themselves.
        """
        batch, rows, size = x_BTD.shape
        qkv = self.qkv(self.attention_norm(x_BTD)).view(batch, rows, 3 * self.heads, -1)
        query, key, value = qkv.chunk(3, dim=2)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if context_BCD is not None:
            other = self.qkv(self.attention_norm(context_BCD)).view(batch, -1, 3 * self.heads, key.shape[-1])
            _, context_key, context_value = other.chunk(3, dim=2)
            key, value = torch.cat((context_key, key), dim=1), torch.cat((context_value, value), dim=1)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=None if mask_BTL is None else mask_BTL.unsqueeze(1),
        )
        x_BTD = x_BTD + self.out(mixed.transpose(1, 2).reshape(batch, rows, size))
        gate, up = self.gate_up(self.mlp_norm(x_BTD)).chunk(2, dim=-1)
        changed: Tensor = self.down(functional.silu(gate) * up)
        return x_BTD + changed


class FrozenAttentionLayer:
    """An `AttentionLayer` as it serves: flat rows, few operations, weights that no longer change.

    Shapes: S sequences, M rows of each, N = S * M. Not differentiable. Adapters know it by its `name`.
    """

    def __init__(self, layer: AttentionLayer, pack: bool, name: str = "") -> None:
        self.heads = layer.heads
        self._name = name
        self._norms = (layer.attention_norm, layer.mlp_norm)
        self._qkv, self._out, self._gate_up, self._down = (
            FrozenLinear(linear.weight.detach(), None, pack)
            for linear in (layer.qkv, layer.out, layer.gate_up, layer.down)
        )

    def project(
        self, x_ND: Tensor, rotation: Rotation | None, changes: Changes | None = None
    ) -> tuple[Tensor, Tensor]:
        """Queries [N, H, E], and keys followed by values [N, 2H, E]; rotated if asked."""
        heads = self.heads
        normal_ND = _layer_norm(x_ND, self._norms[0])
        rows_NX = self._qkv(normal_ND)
        if changes is not None:
            changes.add(f"{self._name}.qkv", rows_NX, normal_ND)
        rows_NXE = rows_NX.view(x_ND.shape[0], 3 * heads, -1)
        if rotation is not None:
            turned = rows_NXE[:, : 2 * heads]
            left, right = turned.chunk(2, dim=-1)
            swapped = torch.cat((right, left), dim=-1)
            turned.mul_(rotation[0]).addcmul_(swapped, rotation[1])
        return rows_NXE[:, :heads], rows_NXE[:, heads:]

    def mix(
        self,
        x_ND: Tensor,
        query_NHE: Tensor,
        kv_SLXE: Tensor,
        bias_S1ML: Tensor | None,
        changes: Changes | None = None,
    ) -> None:
        """Attend to each sequence's context and run the feed-forward; adds both to `x_ND` in place.

        The bias is 0 where a row may attend and -inf elsewhere.
        """
        sequences, heads = kv_SLXE.shape[0], self.heads
        mixed = functional.scaled_dot_product_attention(
            query_NHE.view(sequences, -1, *query_NHE.shape[1:]).transpose(1, 2),
            kv_SLXE[:, :, :heads].transpose(1, 2),
            kv_SLXE[:, :, heads:].transpose(1, 2),
            attn_mask=bias_S1ML,
        )
        mixed_ND = mixed.transpose(1, 2).reshape(x_ND.shape)
        self._out.add_to(x_ND, mixed_ND)
        if changes is not None:
            changes.add(f"{self._name}.out", x_ND, mixed_ND)
        normal_ND = _layer_norm(x_ND, self._norms[1])
        gate_up_NX = self._gate_up(normal_ND)
        if changes is not None:
            changes.add(f"{self._name}.gate_up", gate_up_NX, normal_ND)
        gate, up = gate_up_NX.chunk(2, dim=-1)
        inner_NX = functional.silu(gate).mul_(up)
        self._down.add_to(x_ND, inner_NX)
        if changes is not None:
            changes.add(f"{self._name}.down", x_ND, inner_NX)


def _layer_norm(x_ND: Tensor, norm: nn.LayerNorm) -> Tensor:
    return functional.layer_norm(x_ND, norm.normalized_shape, norm.weight, None, norm.eps)
