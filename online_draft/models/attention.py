"""Grouped attention over KV slots.

Shapes: N rows of the flat batch, S sequences of a group, R rows of each, M = S * R, L context entries,
H query heads, G key-value heads, Q = H / G query heads that share one, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from online_draft.models.kv import KVCache
from online_draft.models.rows import AttentionGroup, RowBatch


class GroupAttention:
    """One group's attention, prepared once a step and run by every layer.

    Keys and values are never repeated for the query heads that share them: torch's CPU kernel knows grouped
    queries; for other devices query heads are folded onto their key-value head ([S, G, Q * R, D]). The
    context is a view of the cache where its slots are neighbours, else one gather a layer.
    """

    def __init__(
        self, group: AttentionGroup, kv: KVCache, dtype: torch.dtype, fold: bool | None = None
    ) -> None:
        self.start = group.start
        self.sequences = group.sequences
        self.rows = group.rows_per_sequence
        self.stop = group.start + group.sequences * group.rows_per_sequence
        self.fold = group.kv_slots_SL.device.type != "cpu" if fold is None else fold
        self.bias_S1RL = _bias(group.mask_SRL, dtype)
        self._layers = kv.layers
        self._context = group.kv_slots_SL.shape[1]
        self._views: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None = None
        first = _first_of_run(group)
        if first is None:
            self._flat_slots = group.kv_slots_SL.reshape(-1)
        else:
            run = kv.pairs.narrow(1, first, self._context).permute(2, 0, 3, 1, 4).unsqueeze(2)
            keys, values = run.unbind(0)
            self._views = keys.unbind(0), values.unbind(0)

    def attend(self, layer: int, queries_MHD: Tensor) -> Tensor:
        """Attention of the group's rows M = S * R over this layer's context: [M, H, D] -> [M, H * D]."""
        if self._views is not None:
            keys_SGLD, values_SGLD = self._views[0][layer], self._views[1][layer]
        else:
            pairs = self._layers[layer].index_select(0, self._flat_slots)
            shaped = pairs.view(self.sequences, self._context, *pairs.shape[1:])
            keys_SGLD, values_SGLD = shaped.permute(2, 0, 3, 1, 4).unbind(0)
        rows, heads, size = queries_MHD.shape
        queries_SRHD = queries_MHD.view(self.sequences, self.rows, heads, size)
        if self.fold:
            return self._attend_folded(queries_SRHD, keys_SGLD, values_SGLD).reshape(rows, heads * size)
        mixed_SHRD = functional.scaled_dot_product_attention(
            queries_SRHD.transpose(1, 2), keys_SGLD, values_SGLD, attn_mask=self.bias_S1RL, enable_gqa=True
        )
        return mixed_SHRD.transpose(1, 2).reshape(rows, heads * size)

    def _attend_folded(self, queries_SRHD: Tensor, keys_SGLD: Tensor, values_SGLD: Tensor) -> Tensor:
        sequences, rows, heads, size = queries_SRHD.shape
        groups = keys_SGLD.shape[1]
        split = queries_SRHD.view(sequences, rows, groups, heads // groups, size).permute(0, 2, 3, 1, 4)
        bias = None if self.bias_S1RL is None else self.bias_S1RL.repeat(1, 1, heads // groups, 1)
        mixed = functional.scaled_dot_product_attention(
            split.reshape(sequences, groups, -1, size), keys_SGLD, values_SGLD, attn_mask=bias
        )
        return mixed.view(sequences, groups, heads // groups, rows, size).permute(0, 3, 1, 2, 4)


def prepare_groups(rows: RowBatch, kv: KVCache, dtype: torch.dtype) -> list[GroupAttention]:
    """The step's groups, ready to attend."""
    return [GroupAttention(group, kv, dtype) for group in rows.groups]


def attend_groups(groups: list[GroupAttention], layer: int, queries_NHD: Tensor) -> Tensor:
    """Attention of all rows, group by group: [N, H, D] -> [N, H * D]."""
    if len(groups) == 1:
        return groups[0].attend(layer, queries_NHD)
    return torch.cat([g.attend(layer, queries_NHD[g.start : g.stop]) for g in groups])


def _bias(mask_SRL: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """[S, 1, R, L] to add to the scores: 0 = may attend, -inf = may not."""
    if mask_SRL is None:
        return None
    bias_SRL = torch.zeros(mask_SRL.shape, dtype=dtype, device=mask_SRL.device)
    return bias_SRL.masked_fill_(mask_SRL.logical_not(), float("-inf")).unsqueeze(1)


def _first_of_run(group: AttentionGroup) -> int | None:
    """First slot when one sequence's slots are ascending neighbours, else None."""
    if group.sequences != 1 or group.contiguous_start is not None:
        return group.contiguous_start
    slots_L = group.kv_slots_SL[0]
    if slots_L.device.type != "cpu":
        return None
    first = int(slots_L[0])
    if int(slots_L[-1]) - first != slots_L.shape[0] - 1:
        return None
    return first if bool((slots_L[1:] > slots_L[:-1]).all()) else None
