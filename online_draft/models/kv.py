"""The tensors behind the KV slots. Who owns which slot is the engine's business.

Shapes: N rows, M moved slots, G key-value heads, D head size.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class KVShape(Protocol):
    """The part of a target's configuration that fixes the size of a slot."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


class KVCache:
    """Keys and values of all layers for `num_slots` token positions.

    One tensor `pairs` [layers, slots, 2, G, D] holds both, so that a step writes, gathers and moves them in
    one operation each; `keys` and `values` are views [layers, slots, G, D] of it, `layers` holds one view
    a layer. Starts as zeros, so that a masked entry never holds a NaN.
    """

    def __init__(
        self,
        config: KVShape,
        num_slots: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.num_layers, num_slots, 2, config.num_kv_heads, config.head_dim)
        # A normal tensor even when made under inference mode, so that either mode may write to it.
        with torch.inference_mode(False):
            self.pairs = torch.zeros(shape, dtype=dtype, device=device)
            self.keys = self.pairs[:, :, 0]
            self.values = self.pairs[:, :, 1]
            self.layers = tuple(self.pairs.unbind(0))

    @property
    def num_slots(self) -> int:
        """Token positions that fit."""
        return self.pairs.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return self.pairs.nbytes

    def write(self, layer: int, slots_N: Tensor, keys_NGD: Tensor, values_NGD: Tensor) -> None:
        """Store rows of one layer into their slots (distinct)."""
        self.write_pairs(layer, slots_N, torch.stack((keys_NGD, values_NGD), dim=1))

    def write_pairs(self, layer: int, slots_N: Tensor, pairs_N2GD: Tensor) -> None:
        """Store rows of one layer, keys and values side by side."""
        self.layers[layer].index_copy_(0, slots_N, pairs_N2GD)

    def move(self, src_slots_M: Tensor, dst_slots_M: Tensor) -> None:
        """Copy slots to slots in all layers.

        Sources are read before any destination is written, so the two may overlap; destinations are distinct.
        """
        self.pairs.index_copy_(1, dst_slots_M, self.pairs.index_select(1, src_slots_M))
