"""A target's step as one call of compiled code.

Shapes: N rows of the flat batch, M rows with logits, F hidden size, V vocabulary.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_draft.models.kv import KVCache
from online_draft.models.native.pack import NAMES, pack, pack_heads, pack_pairs
from online_draft.models.target import Target


@dataclass(slots=True)
class FlatBatch:
    """The rows of a step as the kernels take them.

    `groups_G5` int64, one row a sequence: (row of the slot table, tokens in the cache, rows, 1 for a tree and
    0 for a prompt chunk, first row). `parents_N` int32 holds a tree row's parent within its group, -1 at the root.
    `logit_rows_M` None: every row gives logits.
    """

    tokens_N: NDArray[np.int64]
    parents_N: NDArray[np.int32]
    groups_G5: NDArray[np.int64]
    logit_rows_M: NDArray[np.int64] | None = None


class Pool:
    """The kernels' threads. They spin for `spin_us` after the last loop, then sleep."""

    def __init__(self, library: ctypes.CDLL, threads: int, spin_us: int = 200) -> None:
        self.threads = threads
        self.handle = library.od_pool_new(threads, spin_us)
        weakref.finalize(self, library.od_pool_free, self.handle)


def supports(target: Target) -> bool:
    """Whether the kernels can run this target."""
    return target.device.type == "cpu" and target.dtype in NAMES


class NativeTarget:
    """The target's weights in the kernels' layout, as they were when this was made."""

    def __init__(self, library: ctypes.CDLL, target: Target, pool: Pool) -> None:
        c = self.config = target.config
        name = NAMES[target.dtype]
        self.pool = pool
        self._keep: list[Tensor] = []
        pointers: list[int] = []

        def give(tensor: Tensor | None) -> None:
            if tensor is not None:
                self._keep.append(tensor)
            pointers.append(0 if tensor is None else tensor.data_ptr())

        with torch.inference_mode():
            for layer in target.decoder_layers:
                give(layer.attention_norm.detach().clone())
                give(pack_heads(library, layer.qkv, c.head_dim))
                give(_copy(layer.qkv_bias))
                give(_copy(layer.query_norm))
                give(_copy(layer.key_norm))
                give(pack(library, layer.output))
                give(_copy(layer.output_bias))
                give(_copy(layer.mlp_norm))
                give(pack_pairs(library, layer.gate_up))
                give(pack(library, layer.down))
            give(target.embedding.detach().clone())
            give(_copy(target.norm))
            self.lm_head = pack(library, target.lm_head_VF)
            give(self.lm_head)
            give(target.rope.table(target.device, target.dtype))
        sizes = np.array(
            [
                c.num_layers,
                c.hidden_size,
                c.num_heads,
                c.num_kv_heads,
                c.head_dim,
                c.intermediate_size,
                c.vocab_size,
            ],
            dtype=np.int64,
        )
        weights = np.array(pointers, dtype=np.int64)
        make = getattr(library, f"od_target_new_{name}")
        self._step = getattr(library, f"od_target_step_{name}")
        self._handle = make(pool.handle, sizes.ctypes.data, weights.ctypes.data, c.rms_norm_eps)
        weakref.finalize(self, getattr(library, f"od_target_free_{name}"), self._handle)
        self._dtype = target.dtype
        self._arguments = np.zeros(14, dtype=np.int64)
        self._address = self._arguments.ctypes.data

    def step(self, batch: FlatBatch, table: Tensor, kv: KVCache) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """One step: final hidden states [N, F], logits [M, V] and the first best token [M] of each row.

        Writes the rows' K/V into their slots. `table` int64 [sequences, positions] gives the slots.
        """
        rows = batch.tokens_N.shape[0]
        chosen = batch.logit_rows_M
        count = rows if chosen is None else chosen.shape[0]
        hidden_NF = torch.empty(rows, self.config.hidden_size, dtype=self._dtype)
        logits_MV = torch.empty(count, self.config.vocab_size, dtype=self._dtype)
        best_M = np.empty(count, dtype=np.int64)
        self._arguments[:] = (
            rows,
            batch.groups_G5.shape[0],
            batch.tokens_N.ctypes.data,
            batch.parents_N.ctypes.data,
            batch.groups_G5.ctypes.data,
            table.data_ptr(),
            table.stride(0),
            kv.pairs.data_ptr(),
            kv.num_slots,
            hidden_NF.data_ptr(),
            count,
            0 if chosen is None else chosen.ctypes.data,
            logits_MV.data_ptr(),
            best_M.ctypes.data,
        )
        self._step(self._handle, self._address)
        return hidden_NF, logits_MV, best_M


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()
