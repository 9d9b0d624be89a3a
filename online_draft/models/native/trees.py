"""Draft trees from logits, as compiled code.

Shapes: S sequences, K heads, V vocabulary, N nodes, D depths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from online_draft.models.drafter import MarkovTerm
from online_draft.models.native.pack import Packing
from online_draft.models.native.pool import Pool, own
from online_draft.models.native.scratch import Scratch

_MOST_BUFFERS = 64

TreeArrays = tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.float64],
    NDArray[np.float64] | None,
    NDArray[np.int64],
]
"""Token, parent (-1: the root), depth and path log-probability [S, N]; the noise's share of each node [S, N]
where noise ranks; and how many nodes are filled [S]."""


class Ranking(Protocol):
    """Ranking by noise, as `decoding.ranking.NoiseRanking` describes it. Arrays are contiguous."""

    @property
    def temperature_S(self) -> NDArray[np.float64]: ...

    @property
    def stream_S(self) -> NDArray[np.int64]: ...

    @property
    def position_S(self) -> NDArray[np.int64]: ...

    @property
    def trust_D(self) -> NDArray[np.float64]: ...


class NativeTrees:
    """Builds trees as `decoding.tree.build_trees` does; with a Markov term from packed weights."""

    def __init__(
        self, packing: Packing, pool: Pool, markov: MarkovTerm | None = None, ids_V: Tensor | None = None
    ) -> None:
        """`ids_V`: the token of each logit, int64, where heads don't score all."""
        library, name = packing.library, packing.name
        self._pool = pool
        self._handle = getattr(library, f"od_trees_new_{name}")(pool.handle)
        own(self, getattr(library, f"od_trees_free_{name}"), self._handle)
        self._build = getattr(library, f"od_trees_build_{name}")
        self._arguments = np.zeros(21, dtype=np.int64)
        self._ids = None if ids_V is None else ids_V.detach().clone().contiguous()
        self._address = self._arguments.ctypes.data
        self._roots = Scratch()
        self._buffers: dict[tuple[int, int], _Buffers] = {}
        self._rank = 0
        if markov is not None:
            self._rank = markov.input_VR.shape[1]
            self._input = markov.input_VR.detach().clone().contiguous()
            self._output = packing.plain(markov.output_VR)

    def build(
        self,
        logits_SKV: Tensor,
        roots: Sequence[int],
        nodes: int,
        width: int,
        ranking: Ranking | None = None,
    ) -> TreeArrays:
        """The `nodes` most probable nodes below each root; at most `width` of a depth are followed.

        The arrays are written over by the next call for as many sequences and nodes.
        """
        count, heads, vocab = logits_SKV.shape
        buffers = self._buffers.get((count, nodes))
        if buffers is None:
            if len(self._buffers) >= _MOST_BUFFERS:
                self._buffers.clear()
            buffers = self._buffers[count, nodes] = _Buffers(count, nodes)
        buffers.integers.fill(0)
        buffers.logprob.fill(-np.inf)
        self._roots.take(count)[:] = roots
        share, noise = None, (0, 0, 0, 0)
        if ranking is not None:
            if len(ranking.temperature_S) != count or len(ranking.trust_D) < heads:
                raise ValueError("the ranking is for other sequences or fewer depths")
            share = np.zeros((count, nodes))
            noise = (
                ranking.temperature_S.ctypes.data,
                ranking.stream_S.ctypes.data,
                ranking.position_S.ctypes.data,
                ranking.trust_D.ctypes.data,
            )
        self._arguments[:] = (
            count,
            heads,
            vocab,
            self._rank,
            logits_SKV.data_ptr(),
            self._roots.address,
            self._input.data_ptr() if self._rank else 0,
            self._output.data_ptr() if self._rank else 0,
            width,
            nodes,
            *noise,
            *buffers.tree_addresses,
            0 if share is None else share.ctypes.data,
            buffers.filled_address,
            0 if self._ids is None else self._ids.data_ptr(),
        )
        self._build(self._handle, self._address)
        token, parent, depth = buffers.integers
        return token, parent, depth, buffers.logprob, share, buffers.filled


class _Buffers:
    """Results of one size, and where they are."""

    def __init__(self, count: int, nodes: int) -> None:
        self.integers = np.zeros((3, count, nodes), np.int64)
        self.logprob = np.zeros((count, nodes))
        self.filled = np.zeros(count, np.int64)
        base, step = self.integers.ctypes.data, 8 * count * nodes
        self.tree_addresses = (base, base + step, base + 2 * step, self.logprob.ctypes.data)
        self.filled_address = self.filled.ctypes.data
