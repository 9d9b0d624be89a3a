"""A target's prefill of whole sequences, one decoder layer at a time.

Shapes: B rows, T positions, F hidden size, X hidden size with that of further layers, N rows of the flat
batch, H query heads, G key-value heads, D head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from online_draft.errors import ConfigError

if TYPE_CHECKING:
    from online_draft.models.target import Target


class Prefill:
    """Dense causal attention without a KV cache. The target's weights must not change until `done`.

    Arguments as for `Target.prefill_hidden`, which does all layers at once; ConfigError as there. Callers
    wrap every call in `torch.inference_mode()` or `torch.no_grad()`.
    """

    def __init__(
        self,
        target: Target,
        token_ids_BT: Tensor,
        lengths_B: Tensor,
        layers: tuple[int, ...] = (),
        first_BT: Tensor | None = None,
    ) -> None:
        if layers and not 1 <= min(layers) <= max(layers) <= target.config.num_layers:
            raise ConfigError("feature_layers", f"must be from 1 to {target.config.num_layers}, got {layers}")
        self._stack = target.frozen()
        self._layers = layers
        self._shape = batch, positions = token_ids_BT.shape
        self._hidden_NF = target.embed(token_ids_BT.reshape(-1))
        position_ids_T = torch.arange(positions, device=token_ids_BT.device)
        self._padding_BT = position_ids_T >= lengths_B.to(position_ids_T.device)[:, None]
        self._mask_B1TT: Tensor | None = None
        if first_BT is None:
            cos, signed_sin = target.rope.rotation(position_ids_T, self._hidden_NF.dtype)
            self._rotation = cos.repeat(batch, 1, 1), signed_sin.repeat(batch, 1, 1)
        else:
            self._rotation = target.rope.rotation(
                (position_ids_T - first_BT).flatten(), self._hidden_NF.dtype
            )
            causal_TT = position_ids_T <= position_ids_T.unsqueeze(1)
            self._mask_B1TT = (causal_TT & (position_ids_T >= first_BT.unsqueeze(2))).unsqueeze(1)
        self._kept: dict[int, Tensor] = {}
        self._through = 0

    @property
    def done(self) -> bool:
        """Whether all layers have run."""
        return self._through == len(self._stack.layers)

    def advance(self) -> None:
        """Run the next layer."""
        batch, positions = self._shape
        layer = self._stack.layers[self._through]
        queries_NHD, pairs_N2GD = layer.project(self._hidden_NF, self._rotation)
        queries_BHTD = queries_NHD.view(batch, positions, *queries_NHD.shape[1:]).transpose(1, 2)
        pairs = pairs_N2GD.view(batch, positions, *pairs_N2GD.shape[1:])
        keys_BGTD, values_BGTD = pairs.permute(2, 0, 3, 1, 4).unbind(0)
        mixed_BHTD = functional.scaled_dot_product_attention(
            queries_BHTD,
            keys_BGTD,
            values_BGTD,
            attn_mask=self._mask_B1TT,
            is_causal=self._mask_B1TT is None,
            enable_gqa=True,
        )
        layer.finish(self._hidden_NF, mixed_BHTD.transpose(1, 2).reshape(batch * positions, -1))
        self._through += 1
        if self._through in self._layers:
            self._kept[self._through] = self._hidden_NF.clone()

    def hidden(self) -> Tensor:
        """What all layers made of it, [B, T, X]; rows at and beyond a sequence's length are zero."""
        rows_NX = self._stack.norm(self._hidden_NF)
        if self._layers:
            rows_NX = torch.cat((rows_NX, *(self._kept[done] for done in self._layers)), dim=-1)
        return rows_NX.view(*self._shape, -1).masked_fill(self._padding_BT[..., None], 0.0)
