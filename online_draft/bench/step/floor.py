"""The floor: how long this machine needs to read so many bytes once. No plain step can be quicker."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from online_draft.bench.machine import synchronize
from online_draft.models.target import Target

_ROW = 1024


def streamed_bytes(target: Target) -> int:
    """Bytes of weights that one step reads: all but the rows of an untied embedding."""
    whole = sum(parameter.nbytes for parameter in target.parameters())
    return whole if target.lm_head is None else whole - target.embedding.nbytes


class Floor:
    """Reads one flat float32 buffer in every way at hand; the quickest way counts."""

    def __init__(self, nbytes: int, device: str) -> None:
        self.nbytes = nbytes
        self._device = device
        rows = -(-nbytes // (4 * _ROW))
        self._data = torch.ones(rows, _ROW, device=device)
        ones = torch.ones(_ROW, device=device)
        sums = torch.empty(rows, device=device)
        self._ways: dict[str, Callable[[], Tensor]] = {
            "sum": self._data.sum,
            "product": lambda: torch.mv(self._data, ones, out=sums),
        }

    def measure(self, times: int = 20) -> tuple[float, float]:
        """Median and least seconds of the quickest way."""
        return min(self._time(way, times) for way in self._ways.values())

    def _time(self, way: Callable[[], Tensor], times: int) -> tuple[float, float]:
        found = []
        for _ in range(times):
            synchronize(self._device)
            begin = time.perf_counter()
            way()
            synchronize(self._device)
            found.append(time.perf_counter() - begin)
        return median(found), min(found)
