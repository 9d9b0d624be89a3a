"""A target whose decoder layers are elsewhere: what the learner needs beside the target's hidden states.

Shapes: B rows, T positions, X hidden size, with that of further layers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from online_draft.models.config import TargetConfig
from online_draft.models.kv import KVCache
from online_draft.models.rows import RowBatch
from online_draft.models.target import Target, TargetLayer


class FeatureSource(Protocol):
    """Makes a target's hidden states: a `Target` by itself, or somebody who has others do it."""

    def prefill_hidden(
        self,
        token_ids_BT: Tensor,
        lengths_B: Tensor,
        layers: tuple[int, ...] = (),
        first_BT: Tensor | None = None,
    ) -> Tensor:
        """As `Target.prefill_hidden`: [B, T, X]."""
        ...


class TargetHead(Target):
    """Embedding, final norm and LM head of a target, whose hidden states `source` makes.

    Everything that only asks for features and logits (training, replay) takes it for the whole target; it
    can't decode. Loaded like a target (`load_target(make=...)`): all weights are read once for the
    fingerprint, one at a time, and those of the layers are dropped.
    """

    source: FeatureSource

    def __init__(
        self,
        source: FeatureSource,
        config: TargetConfig,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(replace(config, num_layers=0), dtype, device)
        self.config = config
        self.__dict__["source"] = source  # never a part of this module

    @property
    def stored_layers(self) -> list[TargetLayer]:
        """Nowhere, but with the right names and shapes."""
        return [TargetLayer(self.config, self.dtype, "meta") for _ in range(self.config.num_layers)]

    def forward(self, rows: RowBatch, kv: KVCache) -> Tensor:
        """TypeError: there are no layers to run."""
        raise TypeError("a target's head can't decode")

    def prefill_hidden(
        self,
        token_ids_BT: Tensor,
        lengths_B: Tensor,
        layers: tuple[int, ...] = (),
        first_BT: Tensor | None = None,
    ) -> Tensor:
        """As `Target.prefill_hidden`, in its own dtype and on its own device. Raises what the source does."""
        hidden_BTX = self.source.prefill_hidden(token_ids_BT, lengths_B, layers, first_BT)
        return hidden_BTX.to(self.device, self.dtype)
