"""Medusa (Cai et al. 2024), the reference drafter: independent heads on the newest hidden row alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from online_draft.models.drafter import Drafter, DrafterConfig, DraftState, SharedWeights
from online_draft.models.ring import FeatureRing


class MedusaConfig(DrafterConfig):
    """Medusa has no sizes of its own."""


class Medusa(Drafter):
    """Per head a residual block and an own vocabulary projection that starts as the target's LM head.

    Shapes: N rows, K heads, F hidden size, V vocabulary; a row has one feature, its hidden state (C = 1).
    """

    kind: ClassVar[str] = "medusa"

    def __init__(self, config: MedusaConfig) -> None:
        super().__init__(config)
        heads, size, vocab = config.num_heads, config.hidden_size, config.scored
        self.residual_KFF = nn.Parameter(torch.zeros(heads, size, size))
        self.bias_KF = nn.Parameter(torch.zeros(heads, size))
        self.vocabulary_KVF = nn.Parameter(torch.randn(heads, vocab, size) * size**-0.5)

    def start_from(self, target: SharedWeights) -> None:
        """Each vocabulary projection becomes a copy of the LM head."""
        self.bind(target)
        with torch.no_grad():
            own_VF = self.draft_head_VF()
            self.vocabulary_KVF.copy_(target.lm_head_VF if own_VF is None else own_VF)
            self._head = None

    def new_state(self, slots: int) -> DraftState:
        """Nothing is kept between calls."""
        return DraftState(slots)

    def newest(self, state: DraftState, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        """The newest hidden rows themselves."""
        window = ring.window
        index = [slot * window + (ring.end[slot] - 1) % window for slot in slots]
        return ring.hidden_RF[torch.tensor(index, device=ring.hidden_RF.device)].unsqueeze(1)

    def context(self, hidden_BTF: Tensor, next_tokens_BT: Tensor, first_BT: Tensor | None = None) -> Tensor:
        """The hidden rows themselves."""
        return hidden_BTF.unsqueeze(2)

    def heads(self, features_NCF: Tensor) -> Tensor:
        """[N, 1, F] -> [N, K, V]."""
        hidden_KNF = features_NCF[:, 0].expand(self.num_heads, -1, -1)
        changed = torch.baddbmm(self.bias_KF.unsqueeze(1), hidden_KNF, self.residual_KFF)
        mixed_KNF = hidden_KNF + functional.silu(changed)
        return torch.bmm(mixed_KNF, self.vocabulary_KVF.transpose(1, 2)).transpose(0, 1)
