"""Amphista's draft call as compiled code.

Shapes: S sequences, K heads, V vocabulary, F hidden size, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_draft.models.adapters.stack import AdapterStack
from online_draft.models.amphista import Amphista
from online_draft.models.amphista_serving import AmphistaServing
from online_draft.models.native.pack import Packing, Weights
from online_draft.models.native.pool import Pool, own
from online_draft.models.native.scratch import Scratch
from online_draft.models.ring import FeatureRing


class NativeAmphista:
    """The heads of one drafter in the kernels' layout, as they were when this was made, on one serving state.

    A swap makes a new one: packed weights are never changed in place.
    """

    def __init__(
        self,
        packing: Packing,
        drafter: Amphista,
        state: AmphistaServing,
        pool: Pool,
        lm_head: Tensor | None = None,
    ) -> None:
        """`lm_head` is the target's where it is packed in the same way; else what heads score is packed."""
        c = self.config = drafter.config
        library, name = packing.library, packing.name
        self._state = state
        self._pool = pool
        weights = Weights()

        for layer in (*drafter.stage_layers, *drafter.block_layers):
            weights.copy(layer.attention_norm.weight, layer.mlp_norm.weight)
            weights.give(packing.heads(layer.qkv.weight, c.hidden_size // c.attention_heads))
            weights.give(packing.plain(layer.out.weight), packing.pairs(layer.gate_up.weight))
            weights.give(packing.plain(layer.down.weight))
        weights.give(drafter.shared.embedding_VF.detach())
        weights.give(drafter.rope.table(drafter.place_KF.device, drafter.place_KF.dtype))
        weights.copy(drafter.place_KF, drafter.norm.weight)
        weights.give(packing.plain(drafter.join.weight) if c.stages else None)
        residual_KOI = drafter.residual_KFF.detach().transpose(1, 2)
        weights.give(torch.cat([packing.plain(residual_OI) for residual_OI in residual_KOI]))
        own_VF = drafter.draft_head_VF()
        if lm_head is None or own_VF is not None:
            lm_head = packing.plain(drafter.shared.lm_head_VF if own_VF is None else own_VF)
        weights.give(lm_head)
        self._weights = weights
        self._memory = np.array([kv.data_ptr() for kv in state.kv] or [0], dtype=np.int64)
        sizes = np.array(
            [
                c.hidden_size,
                c.attention_heads,
                c.intermediate_size,
                c.num_heads,
                c.scored,
                c.stages,
                c.block_layers,
                c.features,
                c.stage_window,
                state.capacity,
            ],
            dtype=np.int64,
        )
        self._sizes = sizes
        sources = np.array(c.sources, dtype=np.int64)
        pointers = weights.pointers()
        make = getattr(library, f"od_amphista_new_{name}")
        self._handle = make(
            pool.handle, sizes.ctypes.data, pointers.ctypes.data, sources.ctypes.data, c.norm_eps
        )
        own(self, getattr(library, f"od_amphista_free_{name}"), self._handle)
        self._draft = getattr(library, f"od_amphista_draft_{name}")
        self._rebuild = getattr(library, f"od_amphista_rebuild_{name}")
        self._arguments = np.zeros(13, dtype=np.int64)
        self._stack: tuple[AdapterStack, NDArray[np.int64]] | None = None
        self._address = self._arguments.ctypes.data
        self._index = Scratch()
        self._position_address = state.position_SL.ctypes.data
        self._memory_address = self._memory.ctypes.data

    def logits(self, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        """Logits [S, K, V] of all heads at the newest row of each slot, without the Markov term.

        Brings the state up to date with the ring first.
        """
        state = self._state
        self.follow(ring, slots)
        ends = [ring.end[slot] for slot in slots]
        firsts = [min(state.end[slot], end - 1) for slot, end in zip(slots, ends, strict=True)]
        logits_SKV = torch.empty(
            len(slots), self.config.num_heads, self.config.scored, dtype=ring.hidden_RF.dtype
        )
        self._call(self._draft, ring, slots, firsts, ends, logits_SKV)
        state.note(ring, slots)
        return logits_SKV

    def follow(self, ring: FeatureRing, slots: Sequence[int]) -> None:
        """Make the state of those slots anew that miss too many rows."""
        state = self._state
        stale = state.split(ring, slots)[1]
        for slot in stale:
            end, available = ring.end[slot], ring.available(slot)
            if not available:
                raise ValueError("a slot without rows can't be drafted")
            self._call(self._rebuild, ring, [slot], [end - min(self.config.window, available)], [end], None)
        state.note(ring, stale)

    def _call(
        self,
        function: Callable[[int, int], None],
        ring: FeatureRing,
        slots: Sequence[int],
        firsts: list[int],
        ends: list[int],
        logits_SKV: Tensor | None,
    ) -> None:
        count = len(slots)
        stack = self._state.adapters
        places = [] if stack is None else [self._state.place[slot] for slot in slots]
        adapted = any(places)
        self._index.take(4 * count)[: 3 * count + len(places)] = [*slots, *firsts, *ends, *places]
        base, stride = self._index.address, 8 * count
        self._arguments[:] = (
            count,
            base,
            base + stride,
            base + 2 * stride,
            self._position_address,
            ring.hidden_RF.data_ptr(),
            ring.next_tokens_R.data_ptr(),
            self._memory_address,
            0 if logits_SKV is None else logits_SKV.data_ptr(),
            ring.window,
            base + 3 * stride if adapted else 0,
            *(self._sites(stack) if stack is not None and adapted else (0, 0)),
        )
        function(self._handle, self._address)

    def _sites(self, stack: AdapterStack) -> tuple[int, int]:
        """Address of the table of a stack's weights, and their rank. They never move."""
        if self._stack is None or self._stack[0] is not stack:
            c = self.config
            layers = [f"stages.{i}" for i in range(c.stages)] + [f"block.{i}" for i in range(c.block_layers)]
            names = [f"{layer}.{name}" for layer in layers for name in ("qkv", "out", "gate_up", "down")]
            pairs = [
                0 if name not in tensors else tensors[name].data_ptr()
                for name in (*names, "join", "residual")
                for tensors in (stack.down_PGRI, stack.up_PGRO)
            ]
            self._stack = stack, np.array(pairs, dtype=np.int64)
        return self._stack[1].ctypes.data, stack.rank
