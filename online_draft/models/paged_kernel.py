"""Paged tree attention in Triton. Import only where Triton is installed.

A program handles one tile of rows, one key-value head and one part of the context, so that a long context
keeps a device busy at batch 1; a second kernel puts the parts together. Sums are float32. Tested against the
torch path in Triton's interpreter, and it compiles for sm_90; not yet run on a device.

Shapes: N rows, H query heads, G key-value heads, D head size, P parts, M rows of a tile times query heads
that share a key-value head, L context entries of a block.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from online_draft.models.paged_attention import TILE_ROWS, PagedRows

PARTS = 8
"""Parts of the context per tile and head. A fixed number: launches must not depend on lengths."""
_BLOCK_L = 32


@triton.jit
def _attend_parts(
    query, pairs, table, sequence, context, chain, tile_first, tile_count,
    mixed, highest, total, scale, query_stride, table_stride, row_count, links,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, SHARE: tl.constexpr, SIZE: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One part of the context for a tile: unnormalised values [P, N, H, D], maxima and sums [P, N, H]."""
    tile = tl.program_id(0)
    group = tl.program_id(1)
    part = tl.program_id(2)
    count = tl.load(tile_count + tile)
    if count > 0:
        first = tl.load(tile_first + tile)
        index_M = tl.arange(0, BLOCK_M)
        live_M = index_M // SHARE < count
        row_M = first + index_M // SHARE
        head_M = group * SHARE + index_M % SHARE
        at_D = tl.arange(0, BLOCK_D)
        real_D = at_D < SIZE
        query_MD = tl.load(
            query + row_M[:, None] * query_stride + head_M[:, None] * SIZE + at_D[None, :],
            mask=live_M[:, None] & real_D[None, :],
            other=0.0,
        )
        slots = table + tl.load(sequence + first) * table_stride
        context_M = tl.load(context + row_M, mask=live_M, other=0)
        longest = tl.max(context_M, axis=0)
        width = tl.cdiv(tl.cdiv(longest, PARTS), BLOCK_L) * BLOCK_L
        begin = part * width
        end = tl.minimum(begin + width, longest)
        highest_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total_M = tl.zeros((BLOCK_M,), tl.float32)
        mixed_MD = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        for start in range(begin, end, BLOCK_L):
            place_L = start + tl.arange(0, BLOCK_L)
            inside_L = place_L < end
            slot_L = tl.load(slots + place_L, mask=inside_L, other=0)
            entry_L = pairs + slot_L * (2 * GROUPS * SIZE) + group * SIZE
            wanted_LD = inside_L[:, None] & real_D[None, :]
            key_LD = tl.load(entry_L[:, None] + at_D[None, :], mask=wanted_LD, other=0.0)
            score_ML = tl.dot(query_MD, tl.trans(key_LD), input_precision="ieee") * scale
            seen_ML = inside_L[None, :] & (place_L[None, :] < context_M[:, None])
            score_ML = tl.where(seen_ML, score_ML, float("-inf"))
            above_M = tl.maximum(highest_M, tl.max(score_ML, axis=1))
            # -inf - -inf is no number: rows that have seen nothing yet count from 0.
            base_M = tl.where(above_M == float("-inf"), 0.0, above_M)
            shrink_M = tl.exp(highest_M - base_M)
            weight_ML = tl.exp(score_ML - base_M[:, None])
            value_LD = tl.load(entry_L[:, None] + GROUPS * SIZE + at_D[None, :], mask=wanted_LD, other=0.0)
            total_M = total_M * shrink_M + tl.sum(weight_ML, axis=1)
            mixed_MD = mixed_MD * shrink_M[:, None] + tl.dot(
                weight_ML.to(value_LD.dtype), value_LD, input_precision="ieee"
            )
            highest_M = above_M
        if part == 0:
            for link in range(links):
                place_M = tl.load(chain + row_M * links + link, mask=live_M, other=-1)
                linked_M = place_M >= 0
                slot_M = tl.load(slots + place_M, mask=linked_M, other=0)
                entry_M = pairs + slot_M * (2 * GROUPS * SIZE) + group * SIZE
                wanted_MD = linked_M[:, None] & real_D[None, :]
                key_MD = tl.load(entry_M[:, None] + at_D[None, :], mask=wanted_MD, other=0.0)
                score_M = tl.sum(query_MD.to(tl.float32) * key_MD.to(tl.float32), axis=1) * scale
                score_M = tl.where(linked_M, score_M, float("-inf"))
                above_M = tl.maximum(highest_M, score_M)
                base_M = tl.where(above_M == float("-inf"), 0.0, above_M)
                shrink_M = tl.exp(highest_M - base_M)
                weight_M = tl.exp(score_M - base_M)
                value_MD = tl.load(
                    entry_M[:, None] + GROUPS * SIZE + at_D[None, :], mask=wanted_MD, other=0.0
                )
                total_M = total_M * shrink_M + weight_M
                mixed_MD = mixed_MD * shrink_M[:, None] + weight_M[:, None] * value_MD.to(tl.float32)
                highest_M = above_M
        place_M = (part * row_count + row_M) * HEADS + head_M
        tl.store(highest + place_M, highest_M, mask=live_M)
        tl.store(total + place_M, total_M, mask=live_M)
        tl.store(
            mixed + place_M[:, None] * SIZE + at_D[None, :],
            mixed_MD,
            mask=live_M[:, None] & real_D[None, :],
        )


@triton.jit
def _join_parts(
    mixed, highest, total, context, result, row_count,
    HEADS: tl.constexpr, SIZE: tl.constexpr, PARTS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The parts of one row and head together: [N, H * D]. Zeros for rows without context."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    part_P = tl.arange(0, PARTS)
    at_D = tl.arange(0, BLOCK_D)
    live_P = tl.zeros_like(part_P) + tl.load(context + row) > 0
    place_P = (part_P * row_count + row) * HEADS + head
    highest_P = tl.load(highest + place_P, mask=live_P, other=0.0)
    total_P = tl.load(total + place_P, mask=live_P, other=1.0)
    mixed_PD = tl.load(
        mixed + place_P[:, None] * SIZE + at_D[None, :],
        mask=live_P[:, None] & (at_D < SIZE)[None, :],
        other=0.0,
    )
    share_P = tl.exp(highest_P - tl.max(highest_P, axis=0))
    value_D = tl.sum(mixed_PD * share_P[:, None], axis=0) / tl.sum(total_P * share_P, axis=0)
    at = (row * HEADS + head) * SIZE + at_D
    tl.store(result + at, value_D.to(result.dtype.element_ty), mask=at_D < SIZE)


def attend(rows: PagedRows, pairs: Tensor, queries_NHD: Tensor) -> Tensor:
    """Attention of all rows over one layer's cache `pairs` [slots, 2, G, D]: [N, H, D] -> [N, H * D].

    The heads of a query must lie side by side; rows may have any stride.
    """
    count, heads, size = queries_NHD.shape
    groups = pairs.shape[2]
    share = heads // groups
    block_d = max(16, triton.next_power_of_2(size))
    block_m = max(16, triton.next_power_of_2(TILE_ROWS * share))
    device = queries_NHD.device
    mixed = torch.empty((PARTS, count, heads, size), dtype=torch.float32, device=device)
    highest, total = torch.empty((2, PARTS, count, heads), dtype=torch.float32, device=device)
    result = torch.empty((count, heads * size), dtype=queries_NHD.dtype, device=device)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(queries_NHD):  # type: ignore[no-untyped-call]
        _attend_parts[(rows.tile_first_T.shape[0], groups, PARTS)](
            queries_NHD, pairs, rows.table, rows.sequence_N, rows.context_N, rows.chain_NA,
            rows.tile_first_T, rows.tile_count_T, mixed, highest, total,
            size**-0.5, queries_NHD.stride(0), rows.table.stride(0), count, rows.chain_NA.shape[1],
            HEADS=heads, GROUPS=groups, SHARE=share, SIZE=size,
            PARTS=PARTS, BLOCK_M=block_m, BLOCK_L=_BLOCK_L, BLOCK_D=block_d,
            num_warps=8 if block_m * block_d >= 8192 else 4,
        )  # fmt: skip
        _join_parts[(count, heads)](
            mixed, highest, total, rows.context_N, result, count,
            HEADS=heads, SIZE=size, PARTS=PARTS, BLOCK_D=block_d,
        )  # fmt: skip
    return result
