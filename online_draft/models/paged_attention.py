"""Attention for flat rows that reads the context out of the block tables: no masks, no padded trees.

Shapes: N rows of the flat batch, A entries of a row's chain, T tiles, L context entries, H query heads,
D head size. Of the two implementations the Triton kernel reads only live entries; the gathered one reads a
fixed number for every row and is there for tests and for devices without Triton.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from online_draft.models.attention import attend_groups, prepare_groups
from online_draft.models.kv import KVCache
from online_draft.models.rows import AttentionGroup, RowBatch
from online_draft.models.target import Target

TILE_ROWS = 8
"""Rows of one sequence that the kernel handles together."""

Attend = Callable[[int, Tensor], Tensor]
"""(layer, queries [N, H, D]) -> [N, H * D], once the rows' K/V of that layer are written."""


@dataclass(slots=True)
class PagedRows:
    """A step's rows on the device, all int64 and contiguous. Places count along a sequence's row of `table`.

    A row attends to the first `context_N` places of its sequence and to its chain: the places of itself and
    of its ancestors in the tree, short of the root (which is part of the context); -1 fills up. Roots and
    prompt rows have no chain. Padding rows have place -1 and context 0: their K/V go to slot 0, which nobody
    owns, and what they attend to is arbitrary but finite.

    Tiles are runs of at most `TILE_ROWS` rows of one sequence: first row and count, 0 where there is none.
    """

    token_ids_N: Tensor
    position_ids_N: Tensor
    sequence_N: Tensor
    place_N: Tensor
    context_N: Tensor
    chain_NA: Tensor
    tile_first_T: Tensor
    tile_count_T: Tensor
    table: Tensor
    """[sequences, places]: KV slots."""

    def slots(self) -> Tensor:
        """Where each row's K/V go [N]."""
        found_N = self.table[self.sequence_N, self.place_N.clamp(min=0)]
        return found_N.masked_fill(self.place_N < 0, 0)


def kernel_available(dtype: torch.dtype) -> bool:
    """Whether the Triton kernel can be used for this type: Triton is installed and the type isn't float64."""
    return dtype != torch.float64 and importlib.util.find_spec("triton") is not None


def gathered_attention(rows: PagedRows, kv: KVCache, dtype: torch.dtype, context: int) -> Attend:
    """Every row as a sequence of its own with `context` masked places before its chain.

    No row's context may be longer. Padding rows attend to slot 0.
    """
    columns_L = torch.arange(context, device=rows.table.device)
    nothing_N1 = (rows.context_N == 0).unsqueeze(1)
    slots_NL = rows.table[rows.sequence_N, :context].masked_fill(nothing_N1, 0)
    chain_NA = rows.table[rows.sequence_N.unsqueeze(1), rows.chain_NA.clamp(min=0)]
    mask_NL = columns_L < rows.context_N.clamp(min=1).unsqueeze(1)
    mask_NX = torch.cat((mask_NL, rows.chain_NA >= 0), dim=1)
    group = AttentionGroup(
        0, slots_NL.shape[0], 1, torch.cat((slots_NL, chain_NA), dim=1), mask_NX.unsqueeze(1)
    )
    batch = RowBatch(rows.token_ids_N, rows.position_ids_N, rows.token_ids_N, [group])
    groups = prepare_groups(batch, kv, dtype)
    return lambda layer, queries_NHD: attend_groups(groups, layer, queries_NHD)


def kernel_attention(rows: PagedRows, kv: KVCache) -> Attend:
    """The Triton kernel. Padding rows get zeros. ImportError without Triton."""
    from online_draft.models.paged_kernel import attend

    return lambda layer, queries_NHD: attend(rows, kv.layers[layer], queries_NHD)


def paged_forward(target: Target, kv: KVCache, rows: PagedRows, attend: Attend) -> Tensor:
    """`Target.forward` for paged rows: final hidden states [N, F]. Writes K/V into the rows' slots."""
    stack = target.frozen()
    hidden_NF = target.embed(rows.token_ids_N)
    rotation = target.rope.rotation(rows.position_ids_N, hidden_NF.dtype)
    slots_N = rows.slots()
    for index, layer in enumerate(stack.layers):
        queries_NHD, pairs_N2GD = layer.project(hidden_NF, rotation)
        kv.write_pairs(index, slots_N, pairs_N2GD)
        layer.finish(hidden_NF, attend(index, queries_NHD))
    return stack.norm(hidden_NF)
