"""Compaction of the cache and the feature ring's new rows, as one call of compiled code."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_draft.models.kv import KVCache
from online_draft.models.native.pack import NAMES
from online_draft.models.ring import FeatureRing

Indices = Sequence[int] | NDArray[np.int64]


class NativeCommit:
    """Equal to `KVCache.move` and `FeatureRing.append_many`, in a few microseconds."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._commit = getattr(library, f"od_commit_{NAMES[dtype]}")
        self._arguments = np.zeros(15, dtype=np.int64)
        self._address = self._arguments.ctypes.data

    def apply(
        self,
        kv: KVCache,
        sources: Sequence[int],
        destinations: Sequence[int],
        ring: FeatureRing,
        places: Indices,
        hidden_NF: Tensor,
        rows: Indices,
        tokens: Indices,
    ) -> None:
        """Copy slots to slots, then `hidden_NF[rows]` and the tokens behind them to places of the ring.

        Sources are read before any destination is written.
        """
        layers, slots = kv.pairs.shape[:2]
        moves_2M = np.array([sources, destinations], dtype=np.int64)
        rows_3N = np.array([rows, places, tokens], dtype=np.int64)
        moves, row = moves_2M.ctypes.data, rows_3N.ctypes.data
        count, added = len(sources), len(rows)
        self._arguments[:] = (
            kv.pairs.data_ptr(),
            layers,
            slots,
            kv.pairs.stride(1),
            count,
            moves,
            moves + 8 * count,
            hidden_NF.data_ptr(),
            hidden_NF.shape[1],
            added,
            row,
            row + 8 * added,
            row + 16 * added,
            ring.hidden_RF.data_ptr(),
            ring.next_tokens_R.data_ptr(),
        )
        self._commit(self._address)
