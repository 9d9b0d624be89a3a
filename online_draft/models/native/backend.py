"""All compiled parts of one engine."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import numpy as np
import torch

from online_draft.models.amphista import Amphista
from online_draft.models.amphista_serving import AmphistaServing
from online_draft.models.drafter import Drafter, DraftState
from online_draft.models.kv import KVCache
from online_draft.models.medusa import Medusa
from online_draft.models.native.amphista import NativeAmphista
from online_draft.models.native.commit import NativeCommit
from online_draft.models.native.medusa import NativeMedusa
from online_draft.models.native.pack import NAMES, Packing
from online_draft.models.native.pool import Pool
from online_draft.models.native.target import FlatBatch, NativeTarget
from online_draft.models.native.trees import NativeTrees, Ranking, TreeArrays
from online_draft.models.ring import FeatureRing
from online_draft.models.target import Target

_MOST_SHARING = 32
_PROBE_ROWS = 8
_PROBE_REPEATS = 15
_WORTH_A_THREAD = 0.95


def supports(target: Target) -> bool:
    """Whether compiled code can run this target: on the CPU, in float32 or float64.

    At most 32 query heads may share a key-value head: attention's scratch is made for as many.
    """
    sharing = target.config.num_heads // target.config.num_kv_heads
    return target.device.type == "cpu" and target.dtype in NAMES and sharing <= _MOST_SHARING


class NativeBackend:
    """A target's weights packed, threads to run on, and what else a step needs.

    Packed weights are a second copy, and those of the moment: after a change of the target in place, make a
    new backend. `threads` None: as many as a probe finds worth it.
    """

    def __init__(self, library: ctypes.CDLL, target: Target, threads: int | None = None) -> None:
        self._library = library
        packed = _packed(library, target)
        if threads is None:
            threads = probe_threads(library, target, packed)
        self.pool = Pool(library, threads)
        self.target = packed.on(self.pool)
        self.commit = NativeCommit(library, target.dtype)

    def peak(self, times: int = 10) -> float:
        """Operations a second that the kernels reach in cache on all threads: no step can compute faster."""
        run = getattr(self._library, f"od_peak_{self.target.packing.name}")
        best = 0.0
        for _ in range(times):
            begin = time.perf_counter()
            operations = run(self.pool.handle, 200)
            best = max(best, operations / (time.perf_counter() - begin))
        return best

    def drafting(self, drafter: Drafter, state: DraftState) -> NativeDrafting:
        """A drafter's part of the step; weights are those of the moment."""
        return NativeDrafting(self._library, drafter, state, self.target, self.pool)


class NativeDrafting:
    """From the feature ring to trees: trees compiled, as are Medusa's heads, and Amphista's where the kernels
    have all of its parts; other heads in torch.

    In float32 a drafter's weights are stored as bfloat16: that changes drafts a little and outputs never.
    """

    def __init__(
        self, library: ctypes.CDLL, drafter: Drafter, state: DraftState, target: NativeTarget, pool: Pool
    ) -> None:
        self._drafter = drafter
        self._state = state
        self._dtype = target.dtype
        packing = Packing(library, target.dtype, half=True)
        self._heads: NativeAmphista | NativeMedusa | None = None
        if isinstance(drafter, Amphista) and isinstance(state, AmphistaServing) and drafter.config.compiled:
            whole = target.drafting_head() if drafter.draft_ids_V is None else None
            self._heads = NativeAmphista(packing, drafter, state, pool, whole)
        elif isinstance(drafter, Medusa):
            self._heads = NativeMedusa(packing, drafter, pool)
        self._trees = NativeTrees(packing, pool, drafter.markov, drafter.draft_ids_V)

    def follow(self, ring: FeatureRing, slots: Sequence[int]) -> None:
        """Bring the state of these slots up to the ring. Where heads run in torch, the draft does that."""
        if self._heads is not None:
            self._heads.follow(ring, slots)

    def trees(
        self,
        ring: FeatureRing,
        slots: Sequence[int],
        roots: Sequence[int],
        nodes: int,
        width: int,
        ranking: Ranking | None = None,
    ) -> TreeArrays:
        """One tree for each slot, whose newest token is its root."""
        if self._heads is not None:
            logits_SKV = self._heads.logits(ring, slots)
        else:
            with _one_torch_thread():
                logits_SKV = self._drafter.draft(self._state, ring, slots).base_logits_SKV
            logits_SKV = logits_SKV.to(self._dtype).contiguous()
        return self._trees.build(logits_SKV, roots, nodes, width, ranking)


_known: WeakKeyDictionary[Target, tuple[int, NativeTarget]] = WeakKeyDictionary()


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Behind each operation torch's own threads wait busily for more, on the cores of the kernels' pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_packing = threading.Lock()


def _packed(library: ctypes.CDLL, target: Target) -> NativeTarget:
    """A target's packed weights: made once, whatever the number of engines, and again after `thaw`.

    To be run only `on` a pool of one's own: scratch isn't shared between threads.
    """
    with _packing:
        generation, packed = _known.get(target, (-1, None))
        now = target.generation  # weights that change while they are packed must not pass for the new ones
        if packed is None or generation != now:
            packed = NativeTarget(library, target, Pool(library, 1))
            _known[target] = now, packed
        return packed


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@torch.inference_mode()
def probe_threads(library: ctypes.CDLL, target: Target, packed: NativeTarget) -> int:
    """The number of threads beyond which more gain less than 5 % a step. Takes well under a second."""
    kv = KVCache(target.config, 2 * _PROBE_ROWS, target.dtype)
    table = torch.arange(2 * _PROBE_ROWS).unsqueeze(0)
    parents_N = np.arange(-1, _PROBE_ROWS - 1, dtype=np.int32)
    batch = FlatBatch(
        np.zeros(_PROBE_ROWS, dtype=np.int64),
        parents_N,
        np.array([[0, 0, _PROBE_ROWS, 1, 0]], dtype=np.int64),
    )
    best: tuple[int, float] | None = None
    count, cores = 1, available_cores()
    while count <= cores:
        seconds = _median_step(packed.on(Pool(library, count)), batch, table, kv)
        if best is None or seconds < _WORTH_A_THREAD * best[1]:
            best = count, seconds
        count = cores if count < cores < 2 * count else 2 * count
    assert best is not None
    return best[0]


def _median_step(target: NativeTarget, batch: FlatBatch, table: torch.Tensor, kv: KVCache) -> float:
    times = []
    for _ in range(_PROBE_REPEATS):
        begin = time.perf_counter()
        target.step(batch, table, kv)
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]
