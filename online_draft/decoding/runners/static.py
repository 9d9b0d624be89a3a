"""Tensors that stay where they are, for steps that are recorded once and replayed.

Shapes: N rows of a bucket, A entries of a row's chain, T tiles, M rows with logits, F hidden size,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from online_draft.decoding.runners.flat import FlatRows, Ints
from online_draft.models.paged_attention import TILE_ROWS, PagedRows


@dataclass(frozen=True, slots=True)
class StaticShape:
    """What a recorded step is made for. `context` 0: contexts of any length."""

    rows: int
    chain: int
    logits: int
    context: int = 0


def bucket_for(size: int, buckets: tuple[int, ...]) -> int | None:
    """The smallest bucket that holds this many, None if none does. Buckets ascend."""
    return next((bucket for bucket in buckets if bucket >= size), None)


def power_of_two(size: int) -> int:
    """The smallest power of two that is not less; 0 for 0."""
    return 1 << (size - 1).bit_length() if size > 0 else 0


def extended_buckets(buckets: tuple[int, ...], largest: int) -> tuple[int, ...]:
    """The same buckets, and beyond them doubled ones until `largest` rows fit."""
    found = list(buckets)
    while found[-1] < largest:
        found.append(min(2 * found[-1], largest))
    return tuple(found)


def upload(values: Ints, device: torch.device) -> Tensor:
    """A device copy of host integers that doesn't wait for the device."""
    host = torch.from_numpy(values)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


class StaticRows:
    """`PagedRows` and logit rows of one shape in one buffer: filled with one copy per step."""

    def __init__(self, shape: StaticShape, max_sequences: int, table: Tensor) -> None:
        rows, chain, logits = shape.rows, shape.chain, shape.logits
        # A sequence has at most one tile that isn't full.
        tiles = min(rows, max_sequences + rows // TILE_ROWS)
        sizes = (5 * rows, rows * chain, 2 * tiles, logits)
        self._host = np.zeros(sum(sizes), dtype=np.int64)
        self._buffer = torch.zeros(sum(sizes), dtype=torch.int64, device=table.device)
        cuts = np.cumsum(sizes)[:-1].tolist()
        fields, chains, tile_parts, logit_rows = np.split(self._host, cuts)
        self._fields = fields.reshape(5, rows)
        self._chain = chains.reshape(rows, chain)
        self._tiles = tile_parts.reshape(2, tiles)
        self._logits = logit_rows
        parts = torch.split(self._buffer, list(sizes))
        token_N, position_N, sequence_N, place_N, context_N = parts[0].view(5, rows).unbind(0)
        tile_first_T, tile_count_T = parts[2].view(2, tiles).unbind(0)
        self.logit_rows_M = parts[3]
        self.rows = PagedRows(
            token_N,
            position_N,
            sequence_N,
            place_N,
            context_N,
            parts[1].view(rows, chain),
            tile_first_T,
            tile_count_T,
            table,
        )

    def fill(self, flat: FlatRows) -> None:
        """Take over a step's rows and pad them."""
        rows, tiles = flat.rows, flat.tiles_T2.shape[0]
        self._fields[:, :rows] = flat.fields_5N
        self._fields[:, rows:] = 0
        self._fields[3, rows:] = -1
        self._chain.fill(-1)
        self._chain[:rows, : flat.chain_NA.shape[1]] = flat.chain_NA
        self._tiles.fill(0)
        self._tiles[:, :tiles] = flat.tiles_T2.T
        self._logits.fill(0)
        chosen_M = flat.logit_rows_M
        self._logits[: flat.logits] = np.arange(rows) if chosen_M is None else chosen_M
        host = torch.from_numpy(self._host)
        if self._buffer.device.type == "cuda":
            host = host.pin_memory()
        self._buffer.copy_(host, non_blocking=True)


@dataclass(slots=True)
class StaticResults:
    """Where recorded steps leave their results. Shared by all of the same size: valid until the next step."""

    hidden_NF: Tensor
    logits_MV: Tensor
    greedy_M: Tensor
