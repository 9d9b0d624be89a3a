"""Amphista (Li et al. 2024): draft heads that see one another, on features adapted in stages.

Shapes: S slots, B sequences, T or M rows, L context entries, N rows at which heads run, K heads,
F hidden size, H attention heads, E head size, C features of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from online_draft.errors import ConfigError
from online_draft.models.drafter import Drafter, DrafterConfig, DraftState, MarkovTerm, SharedWeights
from online_draft.models.layers import AttentionLayer
from online_draft.models.norm import RMSNorm
from online_draft.models.ring import FeatureRing
from online_draft.models.rope import RotaryEmbedding, Rotation

_NEVER = -(1 << 40)
"""Position of an empty context entry: outside every window."""


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


class AmphistaState(DraftState):
    """Keys, values and positions of each slot's last rows, in a ring per stage; the newest row's features."""

    def __init__(self, config: AmphistaConfig, slots: int, like: Tensor) -> None:
        super().__init__(slots)
        self.capacity = config.stage_window + config.chunk
        self.end = [0] * slots
        size, heads = config.hidden_size, config.attention_heads
        rings = (config.stages, slots, self.capacity, 2, heads, size // heads)
        self.kv_ISL2HE = torch.zeros(rings, dtype=like.dtype, device=like.device)
        self.position_SL = torch.full((slots, self.capacity), _NEVER, dtype=torch.int64, device=like.device)
        features = max(config.sources) + 1
        self.newest_SCF = torch.zeros(slots, features, size, dtype=like.dtype, device=like.device)

    def of(self, tensor_SX: Tensor, slots: Sequence[int]) -> Tensor:
        """The part of a per-slot tensor that belongs to `slots`; a view where they are neighbours."""
        first, count = slots[0], len(slots)
        if count == 1 or list(slots) == list(range(first, first + count)):
            return tensor_SX[first : first + count]
        return tensor_SX[torch.tensor(slots, device=tensor_SX.device)]


class Amphista(Drafter):
    """Staged adaptation layers, residual heads, and a bi-directional block over the heads of one row.

    Stage 1 adapts hidden rows; the last stage also takes in the token sampled at each row. At the start every
    head gives about the target's own next-token distribution.
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
        self._rope = RotaryEmbedding(size // config.attention_heads, config.max_positions, config.rope_theta)

    def _stages(self) -> list[AttentionLayer]:
        return [layer for layer in self.stages if isinstance(layer, AttentionLayer)]

    @property
    def markov(self) -> MarkovTerm | None:
        """The term that ties a head to its parent token, unless its rank is 0."""
        if not self.config.markov_rank:
            return None
        return MarkovTerm(self.markov_input_VR, self.markov_output_VR)

    def start_from(self, target: SharedWeights) -> None:
        """Heads normalise to the size of the target's hidden states; the rest starts well by construction."""
        self.bind(target)
        with torch.no_grad():
            self.norm.weight.fill_(float(target.norm.square().mean().sqrt()))

    def new_state(self, slots: int) -> AmphistaState:
        """Empty rings for `slots` sequences, of the weights' dtype and device."""
        return AmphistaState(self.config, slots, self.residual_KFF)

    def context(self, hidden_BTF: Tensor, next_tokens_BT: Tensor) -> Tensor:
        """[B, T, F] and [B, T] -> features [B, T, C, F]."""
        position_1T = torch.arange(hidden_BTF.shape[1], device=hidden_BTF.device).unsqueeze(0)
        mask_1TT = self._visible(position_1T, position_1T)
        features, _ = self._whole(hidden_BTF, next_tokens_BT, position_1T, mask_1TT)
        return features

    def heads(self, features_NCF: Tensor) -> Tensor:
        """[N, C, F] -> [N, K, V]; one product with the LM head for all heads."""
        source_KNF = features_NCF.transpose(0, 1)[list(self.config.sources)]
        heads_KNF = source_KNF + functional.silu(torch.bmm(source_KNF, self.residual_KFF))
        heads_NKF = heads_KNF.transpose(0, 1) + self.place_KF
        for layer in self.block:
            heads_NKF = layer(heads_NKF)
        return functional.linear(self.norm(heads_NKF), self.lm_head_VF)

    def newest(self, state: DraftState, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        """Features [S, C, F] of the newest rows; a few missing rows are added, else the slot is rebuilt."""
        assert isinstance(state, AmphistaState)
        if ring.window < self.config.window:
            raise ConfigError("feature_window", f"this drafter needs at least {self.config.window} rows")
        behind: list[int] = []
        stale: list[int] = []
        for slot in slots:
            missing = ring.end[slot] - state.end[slot]
            if state.epoch[slot] != ring.epoch[slot] or not 0 <= missing <= self.config.chunk:
                stale.append(slot)
            elif missing:
                behind.append(slot)
        if behind:
            self._advance(state, ring, behind)
        if stale:
            self._rebuild(state, ring, stale)
        return state.of(state.newest_SCF, slots)

    def _advance(self, state: AmphistaState, ring: FeatureRing, slots: list[int]) -> None:
        """Take in the rows that the ring got since the last call, at most `chunk` a slot.

        Shorter slots repeat their last row, which writes the same values to the same place.
        """
        slot_S1 = np.asarray(slots)[:, None]
        start_S1 = np.asarray([state.end[slot] for slot in slots])[:, None]
        missing_S1 = np.asarray([ring.end[slot] for slot in slots])[:, None] - start_S1
        position = start_S1 + np.minimum(np.arange(missing_S1.max()), missing_S1 - 1)
        ring_index = slot_S1 * ring.window + position % ring.window
        own_index = slot_S1 * state.capacity + position % state.capacity
        packed = torch.from_numpy(np.stack((position, ring_index, own_index))).to(ring.hidden_RF.device)
        position_SM, own_index_N = packed[0], packed[2].view(-1)
        state.position_SL.view(-1)[own_index_N] = position_SM.view(-1)
        mask_SML = self._visible(position_SM, state.of(state.position_SL, slots))
        hidden_SMF, tokens_SM = ring.gather(packed[1])
        rotation = self._rope.rotation(position_SM, hidden_SMF.dtype)
        rows = [hidden_SMF]
        for index, layer in enumerate(self._stages()):
            x_SMF = self._stage_input(index, rows[-1], tokens_SM)
            query, kv = layer.project(x_SMF, rotation)
            state.kv_ISL2HE[index].flatten(0, 1).index_copy_(0, own_index_N, kv.flatten(0, 1))
            # Only the newest row goes on from the last stage.
            wanted = slice(-1 if index == len(self.stages) - 1 else 0, None)
            context = state.of(state.kv_ISL2HE[index], slots)
            rows.append(layer.mix(x_SMF[:, wanted], query[:, wanted], context, mask_SML[:, wanted]))
        self._remember(state, ring, slots, self._features([row[:, -1] for row in rows]))

    def _rebuild(self, state: AmphistaState, ring: FeatureRing, slots: list[int]) -> None:
        """Make slots anew from the last `window` rows of the ring; equal to having followed all along."""
        count_S1 = np.asarray([[min(self.config.window, ring.available(slot))] for slot in slots])
        if not count_S1.min():
            raise ValueError("a slot without rows can't be drafted")
        end_S1 = np.asarray([[ring.end[slot]] for slot in slots])
        index_M = np.arange(count_S1.max())
        position = end_S1 - count_S1 + np.minimum(index_M, count_S1 - 1)
        ring_index = np.asarray(slots)[:, None] * ring.window + position % ring.window
        device = ring.hidden_RF.device
        position_SM = torch.from_numpy(position).to(device)
        real_S1M = torch.from_numpy(index_M < count_S1).to(device).unsqueeze(1)
        hidden_SMF, tokens_SM = ring.gather(torch.from_numpy(ring_index).to(device))
        mask_SMM = self._visible(position_SM, position_SM) & real_S1M
        features, contexts = self._whole(hidden_SMF, tokens_SM, position_SM, mask_SMM)
        for row, slot in enumerate(slots):
            count = int(count_S1[row, 0])
            kept = slice(max(0, count - state.capacity), count)
            own_M = position_SM[row, kept] % state.capacity
            state.position_SL[slot] = _NEVER
            state.position_SL[slot, own_M] = position_SM[row, kept]
            for index, kv in enumerate(contexts):
                state.kv_ISL2HE[index, slot, own_M] = kv[row, kept]
        self._remember(state, ring, slots, features[:, -1])

    def _remember(
        self, state: AmphistaState, ring: FeatureRing, slots: list[int], newest_SCF: Tensor
    ) -> None:
        state.newest_SCF[torch.tensor(slots, device=newest_SCF.device)] = newest_SCF
        for slot in slots:
            state.end[slot] = ring.end[slot]
            state.epoch[slot] = ring.epoch[slot]

    def _whole(
        self, hidden_BTF: Tensor, tokens_BT: Tensor, position_BT: Tensor, mask_BTT: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """All stages over rows that attend to each other: features [B, T, C, F], and each stage's K/V."""
        rotation: Rotation = self._rope.rotation(position_BT, hidden_BTF.dtype)
        rows, contexts = [hidden_BTF], []
        for index, layer in enumerate(self._stages()):
            x_BTF = self._stage_input(index, rows[-1], tokens_BT)
            query, kv = layer.project(x_BTF, rotation)
            contexts.append(kv)
            rows.append(layer.mix(x_BTF, query, kv, mask_BTT))
        return self._features(rows), contexts

    def _stage_input(self, index: int, rows_BTF: Tensor, tokens_BT: Tensor) -> Tensor:
        """The last stage takes in the token sampled at each row."""
        if index < self.config.stages - 1:
            return rows_BTF
        token_BTF = functional.embedding(tokens_BT, self.embedding_VF)
        token_BTF = functional.rms_norm(token_BTF, token_BTF.shape[-1:], eps=self.config.norm_eps)
        joined: Tensor = self.join(torch.cat((rows_BTF, token_BTF), dim=-1))
        return joined

    def _features(self, rows: list[Tensor]) -> Tensor:
        """Outputs of the stages, last first, as far back as heads use them: [..., C, F]."""
        return torch.stack(rows[::-1][: max(self.config.sources) + 1], dim=-2)

    def _visible(self, position_BT: Tensor, context_BL: Tensor) -> Tensor:
        """Which context entries a row sees, bool [B, T, L]: itself and `stage_window` - 1 rows before."""
        distance = position_BT.unsqueeze(2) - context_BL.unsqueeze(1)
        return (distance >= 0) & (distance < self.config.stage_window)
