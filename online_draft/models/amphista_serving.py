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
from online_draft.models.adapters.stack import Changes
from online_draft.models.drafter import DraftState
from online_draft.models.frozen import FrozenLinear, FrozenNorm
from online_draft.models.layers import FrozenAttentionLayer
from online_draft.models.ring import FeatureRing
from online_draft.models.target import PACK_LIMIT_BYTES

if TYPE_CHECKING:
    from online_draft.models.amphista import Amphista

_LEAST_REACH = 32
"""Two steps' worth of tokens that others than the heads have drafted."""
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
        if config.feature_layers:
            raise ConfigError("feature_layers", "drafters that read several target layers can't serve")
        weights = drafter.residual_KFF.detach()
        size, heads, device = config.hidden_size, config.num_heads, weights.device
        pack = sum(parameter.nbytes for parameter in drafter.parameters()) <= PACK_LIMIT_BYTES
        self._shared = drafter.shared
        head_VF = drafter.draft_head_VF()
        self._head = None if head_VF is None else FrozenLinear(head_VF, None, pack)
        self._rope = drafter.rope
        self._stages, self._block = (
            [FrozenAttentionLayer(layer, pack, f"{part}.{index}") for index, layer in enumerate(layers)]
            for part, layers in (("stages", drafter.stage_layers), ("block", drafter.block_layers))
        )
        self._join = FrozenLinear(drafter.join.weight.detach(), None, pack) if config.stages else None
        self._residual_KFF = weights
        self._residual = FrozenLinear(weights.transpose(1, 2).reshape(heads * size, size), None, pack)
        self._place_KF = drafter.place_KF.detach()
        self._block_place_WF = drafter.context_place_WF.detach() if config.block_context else None
        self._norm = FrozenNorm(drafter.norm.weight.detach(), config.norm_eps)
        self.reach = max(config.chunk, _LEAST_REACH)
        """Rows that a slot may miss and still go on from where it stands."""
        self.capacity = config.stage_window + self.reach
        self.end = [0] * slots
        entry = (2 * config.attention_heads, size // config.attention_heads)
        self.kv = [
            torch.zeros(slots, self.capacity, *entry, dtype=weights.dtype, device=device)
            for _ in self._stages
        ]
        self.position_SL = np.full((slots, self.capacity), _NEVER)
        """Kept on the host, where a step's masks are made."""

    def newest(self, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        """Features [S, C, F] of each slot's newest row; few missing rows are added, else it is rebuilt.

        With `block_context` W the slot's last W hidden rows follow, newest first; zeros where there are none.
        """
        features_SCF = self._features(ring, slots)
        if not self.config.block_context:
            return features_SCF
        back_W = np.arange(self.config.block_context)
        newest_S1 = np.array([[ring.end[slot] - 1] for slot in slots])
        index_SW = np.array(slots)[:, None] * ring.window + (newest_S1 - back_W) % ring.window
        missing_SW = back_W >= np.array([[ring.available(slot)] for slot in slots])
        rows_SWF, _ = ring.gather(self._tensor(index_SW))
        rows_SWF = rows_SWF.masked_fill(self._tensor(missing_SW).unsqueeze(-1), 0.0)
        return torch.cat((features_SCF, rows_SWF), dim=1)

    def _features(self, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        behind, stale = self.split(ring, slots)
        if not stale:
            return self._advance(ring, behind)
        if not behind:
            return self.rebuild(ring, stale)
        features_SCF = torch.cat((self._advance(ring, behind), self.rebuild(ring, stale)))
        order = {slot: index for index, slot in enumerate(behind + stale)}
        return features_SCF[[order[slot] for slot in slots]]

    def split(self, ring: FeatureRing, slots: Sequence[int]) -> tuple[list[int], list[int]]:
        """Slots that miss at most `reach` rows, and those to be rebuilt. ConfigError if the ring is short."""
        if ring.window < self.config.window:
            raise ConfigError("feature_window", f"this drafter needs at least {self.config.window} rows")
        behind: list[int] = []
        stale: list[int] = []
        for slot in slots:
            (behind if self.knows(ring, slot) else stale).append(slot)
        return behind, stale

    def knows(self, ring: FeatureRing, slot: int) -> bool:
        """Whether a slot misses at most `reach` rows."""
        current = self.epoch[slot] == ring.epoch[slot]
        return current and 0 <= ring.end[slot] - self.end[slot] <= self.reach

    def heads(self, features_SCF: Tensor, changes: Changes | None = None) -> Tensor:
        """[S, C, F] -> [S, K, V]; equal to `Amphista.heads`, on weights that `changes` changes."""
        count, _, size = features_SCF.shape
        sources = self.config.sources
        context_SWF, bias_S11L = self._block_inputs(features_SCF[:, self.config.features :])
        if len(set(sources)) == 1:
            source_SKF = features_SCF[:, sources[0]].unsqueeze(1)
            changed_SKF = self._residual(source_SKF.squeeze(1)).view(count, -1, size)
        else:
            source_SKF = features_SCF[:, list(sources)]
            changed_SKF = torch.einsum("skf,kfg->skg", source_SKF, self._residual_KFF)
        if changes is not None:
            changes.add("residual", changed_SKF, source_SKF.expand_as(changed_SKF))
        heads_SKF = functional.silu(changed_SKF).add_(source_SKF).add_(self._place_KF)
        rows_NF = heads_SKF.reshape(-1, size)
        for layer in self._block:
            query, kv_NXE = layer.project(rows_NF, None, changes)
            kv_SLXE = kv_NXE.view(count, len(sources), *kv_NXE.shape[1:])
            if context_SWF is not None:
                _, other_NXE = layer.project(context_SWF.flatten(0, 1), None, changes)
                kv_SLXE = torch.cat((other_NXE.view(count, -1, *kv_NXE.shape[1:]), kv_SLXE), dim=1)
            layer.mix(rows_NF, query, kv_SLXE, bias_S11L, changes)
        normal_NF = self._norm(rows_NF)
        logits_NV = self._shared.logits(normal_NF) if self._head is None else self._head(normal_NF)
        return logits_NV.view(count, len(sources), -1)

    def _advance(self, ring: FeatureRing, slots: list[int]) -> Tensor:
        """Take in the rows that the ring got since the last call, at most `reach` a slot.

        Without a new row the newest is taken in again; shorter slots repeat theirs. Either way equal values
        are written to the same place.
        """
        slot_S1 = np.array(slots)[:, None]
        end_S1 = np.array([[ring.end[slot]] for slot in slots])
        start_S1 = np.minimum([[self.end[slot]] for slot in slots], end_S1 - 1)
        position_SM = np.minimum(start_S1 + np.arange((end_S1 - start_S1).max()), end_S1 - 1)
        place_SM = position_SM % self.capacity
        self.position_SL[slot_S1, place_SM] = position_SM
        bias_S1ML = self._bias(position_SM, self.position_SL[slots])
        own_index_N = self._tensor(slot_S1 * self.capacity + place_SM).view(-1)

        def context(stage: int, kv_NXE: Tensor) -> Tensor:
            self.kv[stage].flatten(0, 1).index_copy_(0, own_index_N, kv_NXE)
            return self._of(self.kv[stage], slots)

        features_SCF = self._run(ring, slot_S1, position_SM, bias_S1ML, context, self.changes(slots))
        self.note(ring, slots)
        return features_SCF

    def rebuild(self, ring: FeatureRing, slots: list[int]) -> Tensor:
        """Make slots anew from the last `window` rows of the ring; equal to having followed all along."""
        slot_S1 = np.array(slots)[:, None]
        count_S1 = np.array([[min(self.config.window, ring.available(slot))] for slot in slots])
        if not count_S1.min():
            raise ValueError("a slot without rows can't be drafted")
        end_S1 = np.array([[ring.end[slot]] for slot in slots])
        index_M = np.arange(count_S1.max())
        position_SM = np.minimum(end_S1 - count_S1 + index_M, end_S1 - 1)
        bias_S1ML = self._bias(position_SM, np.where(index_M < count_S1, position_SM, _NEVER))
        made: list[Tensor] = []

        def context(stage: int, kv_NXE: Tensor) -> Tensor:
            made.append(kv_NXE.view(*position_SM.shape, *kv_NXE.shape[1:]))
            return made[stage]

        features_SCF = self._run(ring, slot_S1, position_SM, bias_S1ML, context, self.changes(slots))
        for row, slot in enumerate(slots):
            kept = slice(max(0, int(count_S1[row, 0]) - self.capacity), int(count_S1[row, 0]))
            place = position_SM[row, kept] % self.capacity
            self.position_SL[slot] = _NEVER
            self.position_SL[slot, place] = position_SM[row, kept]
            place_T = self._tensor(place)
            for stage, kv_SMXE in enumerate(made):
                self.kv[stage][slot, place_T] = kv_SMXE[row, kept]
        self.note(ring, slots)
        return features_SCF

    def _run(
        self,
        ring: FeatureRing,
        slot_S1: NDArray[np.int64],
        position_SM: NDArray[np.int64],
        bias_S1ML: Tensor,
        context: Context,
        changes: Changes | None,
    ) -> Tensor:
        """All stages over the given rows: features [S, C, F] of the last row of each slot."""
        count, rows = position_SM.shape
        index_N, position_N = self._tensor(
            np.stack((slot_S1 * ring.window + position_SM % ring.window, position_SM))
        ).view(2, -1)
        x_NF, tokens_N = ring.gather(index_N)
        size, last = x_NF.shape[1], len(self._stages) - 1
        rotation = self._rope.rotation(position_N, x_NF.dtype)
        newest = [x_NF.view(count, rows, size)[:, -1].clone()]
        for stage, layer in enumerate(self._stages):
            if stage == last:
                x_NF = self._with_tokens(x_NF, tokens_N, changes)
            query_NHE, kv_NXE = layer.project(x_NF, rotation, changes)
            context_SLXE = context(stage, kv_NXE)
            if stage == last and rows > 1:
                # From the last stage only the newest row goes on.
                x_NF = x_NF.view(count, rows, size)[:, -1]
                query_NHE = query_NHE.view(count, rows, *query_NHE.shape[1:])[:, -1]
                bias_S1ML = bias_S1ML[:, :, -1:]
            layer.mix(x_NF, query_NHE, context_SLXE, bias_S1ML, changes)
            newest.append(x_NF if stage == last else x_NF.view(count, rows, size)[:, -1])
        wanted = newest[::-1][: self.config.features]
        return wanted[0].unsqueeze(1) if len(wanted) == 1 else torch.stack(wanted, dim=1)

    def _block_inputs(self, rows_SWF: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """As Amphista's, with a bias [S, 1, 1, W + K] for the mask."""
        if self._block_place_WF is None:
            return None, None
        missing_SW = ~rows_SWF.any(-1)
        bias_SW = torch.zeros_like(rows_SWF[..., 0]).masked_fill_(missing_SW, -torch.inf)
        bias_SL = functional.pad(bias_SW, (0, self.config.num_heads))
        scaled_SWF = functional.rms_norm(rows_SWF, rows_SWF.shape[-1:], eps=self.config.norm_eps)
        return scaled_SWF + self._block_place_WF, bias_SL[:, None, None]

    def _with_tokens(self, x_NF: Tensor, tokens_N: Tensor, changes: Changes | None) -> Tensor:
        assert self._join is not None
        token_NF = functional.embedding(tokens_N, self._shared.embedding_VF)
        token_NF = functional.rms_norm(token_NF, token_NF.shape[-1:], eps=self.config.norm_eps)
        rows_NX = torch.cat((x_NF, token_NF), dim=-1)
        joined_NF = self._join(rows_NX)
        if changes is not None:
            changes.add("join", joined_NF, rows_NX)
        return joined_NF

    def _bias(self, position_SM: NDArray[np.int64], context_SL: NDArray[np.int64]) -> Tensor:
        """[S, 1, M, L]: 0 for a row itself and the `stage_window` - 1 rows before it, -inf elsewhere."""
        distance = position_SM[:, None, :, None] - context_SL[:, None, None, :]
        # As unsigned numbers, rows ahead are far away too.
        outside = distance.view(np.uint64) >= self.config.stage_window
        return self._tensor(np.where(outside, -np.inf, 0.0)).to(self._place_KF.dtype)

    def _tensor(self, array: NDArray[np.int64] | NDArray[np.float64] | NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(array).to(self._place_KF.device)

    def _of(self, tensor_SX: Tensor, slots: list[int]) -> Tensor:
        """The part of a per-slot tensor that belongs to `slots`; a view where they are neighbours."""
        first, count = slots[0], len(slots)
        if count == 1 or slots == list(range(first, first + count)):
            return tensor_SX[first : first + count]
        return tensor_SX[torch.tensor(slots, device=tensor_SX.device)]

    def note(self, ring: FeatureRing, slots: Sequence[int]) -> None:
        """The slots are up to date with the ring."""
        for slot in slots:
            self.end[slot] = ring.end[slot]
            self.epoch[slot] = ring.epoch[slot]
