"""Amphista (Li et al. 2024): draft heads that see one another, on features adapted in stages.

Shapes: B or S sequences, T positions, N rows at which heads run, K heads, F hidden size, C features of a row,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from online_draft.errors import ConfigError
from online_draft.models.amphista_serving import AmphistaServing
from online_draft.models.drafter import (
    Draft,
    Drafter,
    DrafterConfig,
    DraftState,
    MarkovTerm,
    SharedWeights,
)
from online_draft.models.layers import AttentionLayer
from online_draft.models.norm import RMSNorm
from online_draft.models.ring import FeatureRing
from online_draft.models.rope import RotaryEmbedding


@dataclass(frozen=True)
class AmphistaConfig(DrafterConfig):
    """Sizes and the parts that an ablation turns off.

    `stages` 2, 1 or 0 adaptation layers (the token just sampled enters with the last one); `sources` names
    the feature of each head, counted from the last stage: 0 its output, 1 the one before; empty = all 0.
    `block_layers` 0 turns the bi-directional block off, `markov_rank` 0 the Markov term (plain Amphista).
    """

    attention_heads: int = 6
    intermediate_size: int = 512
    stages: int = 2
    sources: tuple[int, ...] = ()
    block_layers: int = 1
    markov_rank: int = 64
    chunk: int = 8
    max_positions: int = 4096
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources) or (0,) * self.num_heads)
        if self.stages not in (0, 1, 2):
            raise ConfigError("stages", f"must be 0, 1 or 2, got {self.stages}")
        if len(self.sources) != self.num_heads or not set(self.sources) <= set(range(self.stages + 1)):
            raise ConfigError("sources", f"must be {self.num_heads} numbers from 0 to {self.stages}")
        if self.hidden_size % (2 * self.attention_heads):
            raise ConfigError("attention_heads", f"must divide {self.hidden_size} into even parts")
        if self.window < 2 * self.stages:
            raise ConfigError("window", f"must be at least {2 * self.stages}, got {self.window}")

    @property
    def stage_window(self) -> int:
        """Rows that one stage attends to, itself included: stages together reach back `window` rows."""
        return self.window // max(self.stages, 1)

    @property
    def features(self) -> int:
        """C, how many stages' outputs the heads use."""
        return max(self.sources) + 1


class Amphista(Drafter):
    """Staged adaptation layers, residual heads, and a bi-directional block over the heads of one row.

    Stage 1 adapts hidden rows; the last stage also takes in the token sampled at each row.
    """

    kind: ClassVar[str] = "amphista"
    config: AmphistaConfig

    def __init__(self, config: AmphistaConfig) -> None:
        super().__init__(config)
        size, heads = config.hidden_size, config.num_heads
        layer = (size, config.attention_heads, config.intermediate_size, config.norm_eps)
        self.stages = nn.ModuleList(AttentionLayer(*layer, output_scale=0.1) for _ in range(config.stages))
        if config.stages:
            self.join = nn.Linear(2 * size, size, bias=False)
            with torch.no_grad():
                self.join.weight[:, :size] = torch.eye(size)
                self.join.weight[:, size:].normal_(std=0.1 * size**-0.5)
        self.residual_KFF = nn.Parameter(torch.zeros(heads, size, size))
        self.place_KF = nn.Parameter(torch.randn(heads, size) * 0.02)
        self.block = nn.ModuleList(
            AttentionLayer(*layer, output_scale=0.0) for _ in range(config.block_layers)
        )
        self.norm = RMSNorm(size, config.norm_eps)
        if config.markov_rank:
            self.markov_input_VR = nn.Parameter(torch.randn(config.vocab_size, config.markov_rank) * 0.1)
            self.markov_output_VR = nn.Parameter(torch.zeros(config.vocab_size, config.markov_rank))
        self.rope = RotaryEmbedding(size // config.attention_heads, config.max_positions, config.rope_theta)

    @property
    def stage_layers(self) -> list[AttentionLayer]:
        """The adaptation layers, first to last."""
        return [layer for layer in self.stages if isinstance(layer, AttentionLayer)]

    @property
    def block_layers(self) -> list[AttentionLayer]:
        """The bi-directional block's layers."""
        return [layer for layer in self.block if isinstance(layer, AttentionLayer)]

    @property
    def max_positions(self) -> int:
        """Rows of its table of rotations; behind its end nothing checks."""
        return self.config.max_positions

    @property
    def markov(self) -> MarkovTerm | None:
        """The term that ties a head to its parent token, unless its rank is 0."""
        if not self.config.markov_rank:
            return None
        return MarkovTerm(self.markov_input_VR, self.markov_output_VR)

    def start_from(self, target: SharedWeights) -> None:
        """Heads normalise to half the size of the target's hidden states: they repeat its own next-token
        view, less sure of themselves. The rest starts well by construction."""
        self.bind(target)
        with torch.no_grad():
            self.norm.weight.fill_(0.5 * float(target.norm.square().mean().sqrt()))

    def context(self, hidden_BTF: Tensor, next_tokens_BT: Tensor) -> Tensor:
        """[B, T, F] and [B, T] -> features [B, T, C, F]."""
        position_T = torch.arange(hidden_BTF.shape[1], device=hidden_BTF.device)
        distance_TT = position_T.unsqueeze(1) - position_T
        mask_1TT = ((distance_TT >= 0) & (distance_TT < self.config.stage_window)).unsqueeze(0)
        rotation = self.rope.rotation(position_T, hidden_BTF.dtype)
        rows = [hidden_BTF]
        for index, layer in enumerate(self.stage_layers):
            last = index == len(self.stages) - 1
            x_BTF = self._with_tokens(rows[-1], next_tokens_BT) if last else rows[-1]
            rows.append(layer(x_BTF, rotation, mask_1TT))
        return torch.stack(rows[::-1][: self.config.features], dim=-2)

    def heads(self, features_NCF: Tensor) -> Tensor:
        """[N, C, F] -> [N, K, V]; one product with the LM head for all heads."""
        source_KNF = features_NCF.transpose(0, 1)[list(self.config.sources)]
        heads_KNF = source_KNF + functional.silu(torch.bmm(source_KNF, self.residual_KFF))
        heads_NKF = heads_KNF.transpose(0, 1) + self.place_KF
        for layer in self.block_layers:
            heads_NKF = layer(heads_NKF)
        return self.shared.logits(self.norm(heads_NKF))

    def new_state(self, slots: int) -> AmphistaServing:
        """Empty rings for `slots` sequences, and the weights as they are now in serving form."""
        return AmphistaServing(self, slots)

    def newest(self, state: DraftState, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        """Features [S, C, F] of the newest rows; a few missing rows are added, else the slot is rebuilt."""
        assert isinstance(state, AmphistaServing)
        return state.newest(ring, slots)

    @torch.inference_mode()
    def draft(self, state: DraftState, ring: FeatureRing, slots: Sequence[int]) -> Draft:
        """As in `Drafter`, with the weights that the state holds in serving form."""
        assert isinstance(state, AmphistaServing)
        return Draft(state.heads(state.newest(ring, slots)), self.markov)

    def _with_tokens(self, rows_BTF: Tensor, tokens_BT: Tensor) -> Tensor:
        token_BTF = functional.embedding(tokens_BT, self.shared.embedding_VF)
        token_BTF = functional.rms_norm(token_BTF, token_BTF.shape[-1:], eps=self.config.norm_eps)
        joined: Tensor = self.join(torch.cat((rows_BTF, token_BTF), dim=-1))
        return joined
