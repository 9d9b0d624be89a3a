"""Draft trees from logits, as compiled code.

Shapes: S sequences, K heads, V vocabulary, N nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from online_draft.models.drafter import MarkovTerm
from online_draft.models.native.pack import Packing
from online_draft.models.native.pool import Pool, own

TreeArrays = tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]
]
"""Token, parent (-1: the root), depth and path log-probability [S, N], and how many nodes are filled [S]."""


class NativeTrees:
    """Builds trees as `decoding.tree.build_trees` does; with a Markov term from packed weights."""

    def __init__(self, packing: Packing, pool: Pool, markov: MarkovTerm | None = None) -> None:
        library, name = packing.library, packing.name
        self._pool = pool
        self._handle = getattr(library, f"od_trees_new_{name}")(pool.handle)
        own(self, getattr(library, f"od_trees_free_{name}"), self._handle)
        self._build = getattr(library, f"od_trees_build_{name}")
        self._arguments = np.zeros(15, dtype=np.int64)
        self._address = self._arguments.ctypes.data
        self._rank = 0
        if markov is not None:
            self._rank = markov.input_VR.shape[1]
            self._input = markov.input_VR.detach().clone().contiguous()
            self._output = packing.plain(markov.output_VR)

    def build(self, logits_SKV: Tensor, roots: Sequence[int], nodes: int, width: int) -> TreeArrays:
        """The `nodes` most probable nodes below each root; at most `width` of a depth are followed."""
        count, heads, vocab = logits_SKV.shape
        token, parent, depth = np.zeros((3, count, nodes), dtype=np.int64)
        logprob = np.full((count, nodes), -np.inf)
        filled = np.empty(count, dtype=np.int64)
        roots_S = np.array(roots, dtype=np.int64)
        self._arguments[:] = (
            count,
            heads,
            vocab,
            self._rank,
            logits_SKV.data_ptr(),
            roots_S.ctypes.data,
            self._input.data_ptr() if self._rank else 0,
            self._output.data_ptr() if self._rank else 0,
            width,
            nodes,
            token.ctypes.data,
            parent.ctypes.data,
            depth.ctypes.data,
            logprob.ctypes.data,
            filled.ctypes.data,
        )
        self._build(self._handle, self._address)
        return token, parent, depth, logprob, filled
