"""Medusa's draft call as compiled code.

Shapes: S sequences, K heads, V vocabulary, F hidden size, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from online_draft.models.medusa import Medusa
from online_draft.models.native.pack import Packing, Weights
from online_draft.models.native.pool import Pool, own
from online_draft.models.native.scratch import Scratch
from online_draft.models.ring import FeatureRing


class NativeMedusa:
    """The heads of one drafter in the kernels' layout, as they were when this was made.

    A swap makes a new one: packed weights are never changed in place.
    """

    def __init__(self, packing: Packing, drafter: Medusa, pool: Pool) -> None:
        c = self.config = drafter.config
        library, name = packing.library, packing.name
        self._pool = pool
        self._weights = Weights()
        self._weights.copy(drafter.bias_KF)
        residual_KOI = drafter.residual_KFF.detach().transpose(1, 2)
        self._weights.give(
            torch.cat([packing.plain(residual_OI) for residual_OI in residual_KOI]),
            torch.cat([packing.plain(vocabulary_VF) for vocabulary_VF in drafter.vocabulary_KVF]),
        )
        sizes = np.array([c.hidden_size, c.num_heads, c.scored], dtype=np.int64)
        pointers = self._weights.pointers()
        make = getattr(library, f"od_medusa_new_{name}")
        self._handle = make(pool.handle, sizes.ctypes.data, pointers.ctypes.data)
        own(self, getattr(library, f"od_medusa_free_{name}"), self._handle)
        self._draft = getattr(library, f"od_medusa_draft_{name}")
        self._arguments = np.zeros(4, dtype=np.int64)
        self._address = self._arguments.ctypes.data
        self._rows = Scratch()

    def logits(self, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        """Logits [S, K, V] of all heads at the newest row of each slot."""
        count, window = len(slots), ring.window
        self._rows.take(count)[:] = [slot * window + (ring.end[slot] - 1) % window for slot in slots]
        logits_SKV = torch.empty(count, self.config.num_heads, self.config.scored, dtype=ring.hidden_RF.dtype)
        self._arguments[:] = (count, self._rows.address, ring.hidden_RF.data_ptr(), logits_SKV.data_ptr())
        self._draft(self._handle, self._address)
        return logits_SKV

    def follow(self, ring: FeatureRing, slots: Sequence[int]) -> None:
        """Nothing is remembered between two calls."""
