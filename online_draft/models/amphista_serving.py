"""Amphista while it serves: a ring of keys and values per slot, and weights in serving form.

Shapes: S slots, M rows of each, N = S * M, L context entries, X = 2 * attention heads (keys, then values),
E head size, F hidden size, K heads, C features of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from online_draft.errors import ConfigError
from online_draft.models.drafter import DraftState
from online_draft.models.frozen import FrozenLinear, FrozenNorm
from online_draft.models.layers import FrozenAttentionLayer
from online_draft.models.ring import FeatureRing
from online_draft.models.target import PACK_LIMIT_BYTES

if TYPE_CHECKING:
    from online_draft.models.amphista import Amphista

_NEVER = -(1 << 40)
"""Position of an empty context entry: outside every window."""

Context = Callable[[int, Tensor], Tensor]
"""Given a stage and its rows' new K/V [N, X, E]: what the rows attend to, [S, L, X, E]."""


class AmphistaServing(DraftState):
    """Serving state of one Amphista. The drafter's weights must not change as long as it is used.

    Keys and values of the last `stage_window` rows are kept per stage; all can be rebuilt from the ring.
    """

    def __init__(self, drafter: Amphista, slots: int) -> None:
        super().__init__(slots)
        config = self.config = drafter.config
        weights = drafter.residual_KFF.detach()
        size, heads, device = config.hidden_size, config.num_heads, weights.device
        pack = sum(parameter.nbytes for parameter in drafter.parameters()) <= PACK_LIMIT_BYTES
        self._shared = drafter.shared
        self._rope = drafter.rope
        self._stages = [FrozenAttentionLayer(layer, pack) for layer in drafter.stage_layers]
        self._block = [FrozenAttentionLayer(layer, pack) for layer in drafter.block_layers]
        self._join = FrozenLinear(drafter.join.weight.detach(), None, pack) if config.stages else None
        self._residual_KFF = weights
        self._residual = FrozenLinear(weights.transpose(1, 2).reshape(heads * size, size), None, pack)
        self._place_KF = drafter.place_KF.detach()
        self._norm = FrozenNorm(drafter.norm.weight.detach(), config.norm_eps)
        self.capacity = config.stage_window + config.chunk
        self.end = [0] * slots
        entry = (2 * config.attention_heads, size // config.attention_heads)
        self.kv = [
            torch.zeros(slots, self.capacity, *entry, dtype=weights.dtype, device=device)
            for _ in self._stages
        ]
        self.position_SL = torch.full((slots, self.capacity), _NEVER, dtype=torch.int64, device=device)

    def newest(self, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        """Features [S, C, F] of each slot's newest row; few missing rows are added, else it is rebuilt."""
        if ring.window < self.config.window:
            raise ConfigError("feature_window", f"this drafter needs at least {self.config.window} rows")
        behind: list[int] = []
        stale: list[int] = []
        for slot in slots:
            current = self.epoch[slot] == ring.epoch[slot]
            known = current and 0 <= ring.end[slot] - self.end[slot] <= self.config.chunk
            (behind if known else stale).append(slot)
        if not stale:
            return self._advance(ring, behind)
        if not behind:
            return self._rebuild(ring, stale)
        features_SCF = torch.cat((self._advance(ring, behind), self._rebuild(ring, stale)))
        order = {slot: index for index, slot in enumerate(behind + stale)}
        return features_SCF[[order[slot] for slot in slots]]

    def heads(self, features_SCF: Tensor) -> Tensor:
        """[S, C, F] -> [S, K, V]; equal to `Amphista.heads`."""
        count, _, size = features_SCF.shape
        sources = self.config.sources
        if len(set(sources)) == 1:
            source_SKF = features_SCF[:, sources[0]].unsqueeze(1)
            changed_SKF = self._residual(source_SKF.squeeze(1)).view(count, -1, size)
        else:
            source_SKF = features_SCF[:, list(sources)]
            changed_SKF = torch.einsum("skf,kfg->skg", source_SKF, self._residual_KFF)
        heads_SKF = functional.silu(changed_SKF).add_(source_SKF).add_(self._place_KF)
        rows_NF = heads_SKF.view(-1, size)
        for layer in self._block:
            query, kv = layer.project(rows_NF, None)
            layer.mix(rows_NF, query, kv.view(count, len(sources), *kv.shape[1:]), None)
        return self._shared.logits(self._norm(rows_NF)).view(count, len(sources), -1)

    def _advance(self, ring: FeatureRing, slots: list[int]) -> Tensor:
        """Take in the rows that the ring got since the last call, at most `chunk` a slot.

        Without a new row the newest is taken in again; shorter slots repeat theirs. Either way equal values
        are written to the same place.
        """
        end_S1 = np.asarray([[ring.end[slot]] for slot in slots])
        start_S1 = np.minimum([[self.end[slot]] for slot in slots], end_S1 - 1)
        offset = np.minimum(np.arange((end_S1 - start_S1).max()), end_S1 - start_S1 - 1)
        position_SM, ring_index, own_index = self._indices(ring, slots, start_S1 + offset)
        own_index_N = own_index.view(-1)
        self.position_SL.view(-1)[own_index_N] = position_SM.view(-1)
        bias_S1ML = self._bias(position_SM, self._of(self.position_SL, slots))

        def context(stage: int, kv_NXE: Tensor) -> Tensor:
            self.kv[stage].flatten(0, 1).index_copy_(0, own_index_N, kv_NXE)
            return self._of(self.kv[stage], slots)

        features_SCF = self._run(ring, ring_index, position_SM, bias_S1ML, context)
        self._note(ring, slots)
        return features_SCF

    def _rebuild(self, ring: FeatureRing, slots: list[int]) -> Tensor:
        """Make slots anew from the last `window` rows of the ring; equal to having followed all along."""
        count_S1 = np.asarray([[min(self.config.window, ring.available(slot))] for slot in slots])
        if not count_S1.min():
            raise ValueError("a slot without rows can't be drafted")
        start_S1 = np.asarray([[ring.end[slot]] for slot in slots]) - count_S1
        index_M = np.arange(count_S1.max())
        position = start_S1 + np.minimum(index_M, count_S1 - 1)
        position_SM, ring_index, own_index = self._indices(ring, slots, position)
        repeated_SM = torch.from_numpy(index_M >= count_S1).to(position_SM.device)
        bias_S1ML = self._bias(position_SM, position_SM.masked_fill(repeated_SM, _NEVER))
        shape = (len(slots), len(index_M))
        made: list[Tensor] = []

        def context(stage: int, kv_NXE: Tensor) -> Tensor:
            made.append(kv_NXE.view(*shape, *kv_NXE.shape[1:]))
            return made[stage]

        features_SCF = self._run(ring, ring_index, position_SM, bias_S1ML, context)
        for row, slot in enumerate(slots):
            count = int(count_S1[row, 0])
            kept = slice(max(0, count - self.capacity), count)
            self.position_SL[slot] = _NEVER
            self.position_SL.view(-1)[own_index[row, kept]] = position_SM[row, kept]
            for stage, kv_SMXE in enumerate(made):
                self.kv[stage].flatten(0, 1)[own_index[row, kept]] = kv_SMXE[row, kept]
        self._note(ring, slots)
        return features_SCF

    def _run(
        self,
        ring: FeatureRing,
        ring_index_SM: Tensor,
        position_SM: Tensor,
        bias_S1ML: Tensor,
        context: Context,
    ) -> Tensor:
        """All stages over the given rows: features [S, C, F] of the last row of each slot."""
        count, rows = position_SM.shape
        x_NF, tokens_N = ring.gather(ring_index_SM.view(-1))
        size, last = x_NF.shape[1], len(self._stages) - 1
        rotation = self._rope.rotation(position_SM.view(-1), x_NF.dtype)
        newest = [x_NF.view(count, rows, size)[:, -1].clone()]
        for stage, layer in enumerate(self._stages):
            if stage == last:
                x_NF = self._with_tokens(x_NF, tokens_N)
            query_NHE, kv_NXE = layer.project(x_NF, rotation)
            context_SLXE = context(stage, kv_NXE)
            if stage == last and rows > 1:
                # From the last stage only the newest row goes on.
                x_NF = x_NF.view(count, rows, size)[:, -1]
                query_NHE = query_NHE.view(count, rows, *query_NHE.shape[1:])[:, -1]
                bias_S1ML = bias_S1ML[:, :, -1:]
            layer.mix(x_NF, query_NHE, context_SLXE, bias_S1ML)
            newest.append(x_NF if stage == last else x_NF.view(count, rows, size)[:, -1])
        wanted = newest[::-1][: self.config.features]
        return wanted[0].unsqueeze(1) if len(wanted) == 1 else torch.stack(wanted, dim=1)

    def _with_tokens(self, x_NF: Tensor, tokens_N: Tensor) -> Tensor:
        assert self._join is not None
        token_NF = functional.embedding(tokens_N, self._shared.embedding_VF)
        token_NF = functional.rms_norm(token_NF, token_NF.shape[-1:], eps=self.config.norm_eps)
        return self._join(torch.cat((x_NF, token_NF), dim=-1))

    def _bias(self, position_SM: Tensor, context_SL: Tensor) -> Tensor:
        """[S, 1, M, L]: 0 for a row itself and the `stage_window` - 1 rows before it, -inf elsewhere."""
        distance = position_SM.unsqueeze(2) - context_SL.unsqueeze(1)
        outside = (distance < 0) | (distance >= self.config.stage_window)
        bias = torch.zeros(outside.shape, dtype=self._place_KF.dtype, device=outside.device)
        return bias.masked_fill_(outside, float("-inf")).unsqueeze(1)

    def _indices(
        self, ring: FeatureRing, slots: list[int], position_SM: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions, their flat indices in the feature ring and in this state's rings, as tensors [S, M]."""
        slot_S1 = np.asarray(slots)[:, None]
        ring_index = slot_S1 * ring.window + position_SM % ring.window
        own_index = slot_S1 * self.capacity + position_SM % self.capacity
        packed = torch.from_numpy(np.stack((position_SM, ring_index, own_index)))
        first, second, third = packed.to(self.position_SL.device).unbind(0)
        return first, second, third

    def _of(self, tensor_SX: Tensor, slots: list[int]) -> Tensor:
        """The part of a per-slot tensor that belongs to `slots`; a view where they are neighbours."""
        first, count = slots[0], len(slots)
        if count == 1 or slots == list(range(first, first + count)):
            return tensor_SX[first : first + count]
        return tensor_SX[torch.tensor(slots, device=tensor_SX.device)]

    def _note(self, ring: FeatureRing, slots: list[int]) -> None:
        for slot in slots:
            self.end[slot] = ring.end[slot]
            self.epoch[slot] = ring.epoch[slot]
