"""A target's step as one call of compiled code.

Shapes: N rows of the flat batch, M rows with logits, F hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_draft.models.kv import KVCache
from online_draft.models.native.pack import NAMES, Packing, Weights, fits_bfloat16
from online_draft.models.native.pool import Pool, own
from online_draft.models.native.scratch import Scratch
from online_draft.models.target import Target

Integers = Sequence[int] | NDArray[np.integer[Any]]


@dataclass(slots=True)
class FlatBatch:
    """The rows of a step as the kernels take them.

    `groups_G5`, one line a sequence: (row of the slot table, tokens in the cache, rows, 1 for a tree or 0 for
    a prompt chunk, first row). `parents_N` holds a tree row's parent within its group, -1 at the root; empty
    where there is no tree. `logit_rows_M` None: every row gives logits.
    """

    tokens_N: Integers
    parents_N: Integers
    groups_G5: Sequence[tuple[int, int, int, int, int]] | NDArray[np.int64]
    logit_rows_M: Integers | None = None


class NativeTarget:
    """The target's weights in the kernels' layout, as they were when this was made.

    The embedding is the target's own, without a copy: after a change in place this one is not to be run.
    """

    def __init__(self, library: ctypes.CDLL, target: Target, pool: Pool) -> None:
        c = self.config = target.config
        packed = [
            w for layer in target.decoder_layers for w in (layer.qkv, layer.output, layer.gate_up, layer.down)
        ]
        half = target.dtype == torch.float32 and fits_bfloat16(target.lm_head_VF, *packed)
        self.packing = packing = Packing(library, target.dtype, half)
        self.lm_head = packing.plain(target.lm_head_VF)
        self._plain_head_VF = target.lm_head_VF.detach()
        self._drafting_head: list[Tensor] = []
        weights = Weights()
        for layer in target.decoder_layers:
            weights.copy(layer.attention_norm, layer.qkv_bias, layer.query_norm, layer.key_norm)
            weights.copy(layer.output_bias, layer.mlp_norm)
            weights.give(packing.heads(layer.qkv, c.head_dim), packing.plain(layer.output))
            weights.give(packing.pairs(layer.gate_up), packing.plain(layer.down))
        weights.give(target.embedding.detach().contiguous())
        weights.copy(target.norm)
        weights.give(target.rope.table(target.device, target.dtype), self.lm_head)
        self._weights = weights
        sizes = np.array(
            [
                c.num_layers,
                c.hidden_size,
                c.num_heads,
                c.num_kv_heads,
                c.head_dim,
                c.intermediate_size,
                c.vocab_size,
                c.max_position_embeddings,
            ],
            dtype=np.int64,
        )
        self._sizes = sizes
        self._library = library
        self.dtype = target.dtype
        self._start(pool)

    def on(self, pool: Pool) -> NativeTarget:
        """The same packed weights on other threads."""
        other = copy.copy(self)
        other._start(pool)
        return other

    def drafting_head(self) -> Tensor:
        """The LM head as drafters' kernels read it: in float32 always as bfloat16.

        Where the target's is not stored so, it is packed at the first call and shared by all threads' copies.
        """
        packing = Packing(self._library, self.dtype, half=True)
        if packing.name == self.packing.name:
            return self.lm_head
        if not self._drafting_head:
            self._drafting_head.append(packing.plain(self._plain_head_VF))
        return self._drafting_head[0]

    def sample(self, logits_V: Tensor, temperature: float, key: int) -> int:
        """The first best token of logits / temperature + noise (`decoding/noise.py`), for one row."""
        return int(self._sample(logits_V.data_ptr(), self.config.vocab_size, temperature, key))

    def logits(self, hidden_NF: Tensor) -> Tensor:
        """The LM head on final hidden states: [N, F] -> [N, V], bit for bit those of a step."""
        count = hidden_NF.shape[0]
        hidden_NF = hidden_NF.contiguous()
        logits_NV = torch.empty(count, self.config.vocab_size, dtype=self.dtype)
        best_N = np.empty(count, dtype=np.int64)
        self._arguments[9:] = (hidden_NF.data_ptr(), count, 0, logits_NV.data_ptr(), best_N.ctypes.data)
        self._head(self._handle, self._address)
        return logits_NV

    def _start(self, pool: Pool) -> None:
        library, name = self._library, self.packing.name
        self._pool = pool
        make = getattr(library, f"od_target_new_{name}")
        pointers = self._weights.pointers()
        self._handle = make(
            pool.handle, self._sizes.ctypes.data, pointers.ctypes.data, self.config.rms_norm_eps
        )
        own(self, getattr(library, f"od_target_free_{name}"), self._handle)
        self._step = getattr(library, f"od_target_step_{name}")
        self._head = getattr(library, f"od_target_head_{name}")
        self._sample = getattr(library, f"od_sample_{NAMES[self.dtype]}")
        self._arguments = np.zeros(14, dtype=np.int64)
        self._address = self._arguments.ctypes.data
        self._numbers = Scratch()
        self._parents = Scratch(np.int32)

    def step(self, batch: FlatBatch, table: Tensor, kv: KVCache) -> tuple[Tensor, Tensor, list[int]]:
        """One step: final hidden states [N, F], logits [M, V] and the first best token [M] of each row.

        Writes the rows' K/V into their slots. `table` int64 [sequences, positions] gives the slots.
        """
        rows, groups = len(batch.tokens_N), len(batch.groups_G5)
        chosen = batch.logit_rows_M
        count = rows if chosen is None else len(chosen)
        numbers = self._numbers.take(rows + 5 * groups + 2 * count)
        numbers[:rows] = batch.tokens_N
        numbers[rows : rows + 5 * groups].reshape(-1, 5)[:] = batch.groups_G5
        best_M = numbers[rows + 5 * groups : rows + 5 * groups + count]
        if chosen is not None:
            numbers[rows + 5 * groups + count :] = chosen
        parents_N = self._parents.take(rows)
        parents_N[:] = batch.parents_N if len(batch.parents_N) else -1
        tokens = self._numbers.address
        best = tokens + 8 * (rows + 5 * groups)
        hidden_NF = torch.empty(rows, self.config.hidden_size, dtype=self.dtype)
        logits_MV = torch.empty(count, self.config.vocab_size, dtype=self.dtype)
        self._arguments[:] = (
            rows,
            groups,
            tokens,
            self._parents.address,
            tokens + 8 * rows,
            table.data_ptr(),
            table.stride(0),
            kv.pairs.data_ptr(),
            kv.num_slots,
            hidden_NF.data_ptr(),
            count,
            0 if chosen is None else best + 8 * count,
            logits_MV.data_ptr(),
            best,
        )
        self._step(self._handle, self._address)
        return hidden_NF, logits_MV, best_M.tolist()
