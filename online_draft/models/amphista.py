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
from online_draft.models.adapters.adapter import Site
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
    `block_context` lets the block attend to so many of the last hidden rows as well as to the heads.
    `feature_layers` adds a learnt mix of these target layers (counted from 1) to every hidden row; such a
    drafter can be trained and replayed, but no runner keeps other layers' rows, so it can't serve.
    """

    attention_heads: int = 6
    intermediate_size: int = 512
    stages: int = 1
    sources: tuple[int, ...] = ()
    block_layers: int = 1
    block_context: int = 0
    feature_layers: tuple[int, ...] = ()
    markov_rank: int = 64
    chunk: int = 8
    max_positions: int = 4096
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources) or (0,) * self.num_heads)
        object.__setattr__(self, "feature_layers", tuple(self.feature_layers))
        if self.stages not in (0, 1, 2):
            raise ConfigError("stages", f"must be 0, 1 or 2, got {self.stages}")
        if len(self.sources) != self.num_heads or not set(self.sources) <= set(range(self.stages + 1)):
            raise ConfigError("sources", f"must be {self.num_heads} numbers from 0 to {self.stages}")
        if self.hidden_size % (2 * self.attention_heads):
            raise ConfigError("attention_heads", f"must divide {self.hidden_size} into even parts")
        if self.window < 2 * self.stages:
            raise ConfigError("window", f"must be at least {2 * self.stages}, got {self.window}")
        if not 0 <= self.block_context <= self.window or (self.block_context and not self.block_layers):
            raise ConfigError(
                "block_context",
                f"must be from 0 to the window ({self.window}), and 0 without a block; "
                f"got {self.block_context}",
            )
        if self.feature_layers and min(self.feature_layers) < 1:
            raise ConfigError("feature_layers", f"must be numbers from 1, got {self.feature_layers}")

    @property
    def stage_window(self) -> int:
        """Rows that one stage attends to, itself included: stages together reach back `window` rows."""
        return self.window // max(self.stages, 1)

    @property
    def features(self) -> int:
        """C, how many stages' outputs the heads use."""
        return max(self.sources) + 1

    @property
    def compiled(self) -> bool:
        """Whether the compiled kernels have all of its parts."""
        return not self.block_context and not self.feature_layers


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
        if config.block_context:
            self.context_place_WF = nn.Parameter(torch.randn(config.block_context, size) * 0.1)
        if config.feature_layers:
            self.mix = nn.Linear(len(config.feature_layers) * size, size, bias=False)
            nn.init.zeros_(self.mix.weight)
        self.norm = RMSNorm(size, config.norm_eps)
        if config.markov_rank:
            self.markov_input_VR = nn.Parameter(torch.randn(config.vocab_size, config.markov_rank) * 0.1)
            self.markov_output_VR = nn.Parameter(torch.zeros(config.scored, config.markov_rank))
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
    def feature_layers(self) -> tuple[int, ...]:
        """As configured."""
        return self.config.feature_layers

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

    def context(self, hidden_BTF: Tensor, next_tokens_BT: Tensor, first_BT: Tensor | None = None) -> Tensor:
        """[B, T, F] and [B, T] -> features [B, T, C, F], with `block_context` the hidden row behind them."""
        position_T = torch.arange(hidden_BTF.shape[1], device=hidden_BTF.device)
        distance_TT = position_T.unsqueeze(1) - position_T
        mask_BTT = ((distance_TT >= 0) & (distance_TT < self.config.stage_window)).unsqueeze(0)
        if first_BT is None:
            rotation = self.rope.rotation(position_T, hidden_BTF.dtype)
        else:
            mask_BTT = mask_BTT & (position_T >= first_BT.unsqueeze(2))
            rotation = self.rope.rotation(position_T - first_BT, hidden_BTF.dtype)
        rows = [self._mixed(hidden_BTF)]
        for index, layer in enumerate(self.stage_layers):
            last = index == len(self.stages) - 1
            x_BTF = self._with_tokens(rows[-1], next_tokens_BT) if last else rows[-1]
            rows.append(layer(x_BTF, rotation, mask_BTT))
        wanted = rows[::-1][: self.config.features]
        return torch.stack(wanted + rows[:1] if self.config.block_context else wanted, dim=-2)

    def at(
        self, features_BTCF: Tensor, row_N: Tensor, position_N: Tensor, first_BT: Tensor | None = None
    ) -> Tensor:
        """With `block_context` W a row's own features and W hidden rows, newest first: [N, C + W, F]."""
        own_NCF = features_BTCF[row_N, position_N]
        if not self.config.block_context:
            return own_NCF
        back_W = torch.arange(self.config.block_context, device=position_N.device)
        index_NW = position_N.unsqueeze(1) - back_W
        rows_NWF = features_BTCF[row_N.unsqueeze(1), index_NW.clamp(min=0), -1]
        least = 0 if first_BT is None else first_BT[row_N, position_N].unsqueeze(1)
        rows_NWF = rows_NWF.masked_fill((index_NW < least).unsqueeze(-1), 0.0)
        return torch.cat((own_NCF[:, : self.config.features], rows_NWF), dim=1)

    def heads(self, features_NCF: Tensor) -> Tensor:
        """[N, C, F] -> [N, K, V]; one product with the LM head for all heads."""
        used = self.config.features
        source_KNF = features_NCF[:, :used].transpose(0, 1)[list(self.config.sources)]
        heads_KNF = source_KNF + functional.silu(self.residuals(source_KNF))
        heads_NKF = heads_KNF.transpose(0, 1) + self.place_KF
        context_NWF, mask_N1L = self._block_inputs(features_NCF[:, used:])
        for layer in self.block_layers:
            heads_NKF = layer(heads_NKF, None, mask_N1L, context_NWF)
        return self.score(self.norm(heads_NKF))

    def residuals(self, source_KNF: Tensor) -> Tensor:
        """Every head's own linear layer: [K, N, F] -> [K, N, F]."""
        return torch.bmm(source_KNF, self.residual_KFF)

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
        logits_SKV = state.heads(state.newest(ring, slots), state.changes(slots))
        return Draft(logits_SKV, self.markov, self.draft_ids_V)

    def adapter_sites(self) -> dict[str, Site]:
        """Every linear layer of stages and block, `join`, and `residual`, the heads' own."""
        size = self.config.hidden_size
        sites = {"join": Site(1, 2 * size, size)} if self.config.stages else {}
        for part, layers in (("stages", self.stage_layers), ("block", self.block_layers)):
            for index, layer in enumerate(layers):
                for name in ("qkv", "out", "gate_up", "down"):
                    outs, ins = layer.get_parameter(f"{name}.weight").shape
                    sites[f"{part}.{index}.{name}"] = Site(1, ins, outs)
        return sites | {"residual": Site(self.num_heads, size, size)}

    def adapter_weight_OI(self, layer: str) -> Tensor:
        """The weight of one such layer (`residual.3` is the fourth head's), a view that may be written to."""
        name, _, head = layer.rpartition(".")
        if name == "residual":
            return self.residual_KFF[int(head)].t()
        return self.get_parameter(f"{layer}.weight")

    def _block_inputs(self, rows_NWF: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The block's context rows [N, W, F] and who may be seen [N, 1, W + K]; rows of zeros are missing."""
        if not self.config.block_context:
            return None, None
        present_NW = rows_NWF.any(-1)
        mask_NL = functional.pad(present_NW, (0, self.num_heads), value=True)
        scaled_NWF = functional.rms_norm(rows_NWF, rows_NWF.shape[-1:], eps=self.config.norm_eps)
        return scaled_NWF + self.context_place_WF, mask_NL.unsqueeze(1)

    def _mixed(self, hidden_BTX: Tensor) -> Tensor:
        """The last hidden states, with a learnt mix of the other layers' added where there are any."""
        if not self.config.feature_layers:
            return hidden_BTX
        size = self.config.hidden_size
        others = hidden_BTX[..., size:].reshape(*hidden_BTX.shape[:-1], -1, size)
        scaled = functional.rms_norm(others, (size,), eps=self.config.norm_eps).flatten(-2)
        mixed: Tensor = hidden_BTX[..., :size] + self.mix(scaled)
        return mixed

    def _with_tokens(self, rows_BTF: Tensor, tokens_BT: Tensor) -> Tensor:
        token_BTF = functional.embedding(tokens_BT, self.shared.embedding_VF)
        token_BTF = functional.rms_norm(token_BTF, token_BTF.shape[-1:], eps=self.config.norm_eps)
        joined: Tensor = self.join(torch.cat((rows_BTF, token_BTF), dim=-1))
        return joined
