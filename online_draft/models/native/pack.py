"""Weights in the kernels' layout: panels of 16 outputs, [outputs / 16][inputs][16].

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

LANES = 16
NAMES = {torch.float32: "f32", torch.float64: "f64"}
"""The kernels' name of each type they compute in."""


def padded(size: int) -> int:
    """The next multiple of 16."""
    return -(-size // LANES) * LANES


def fits_bfloat16(*weights: Tensor) -> bool:
    """Whether bfloat16 holds these weights exactly, as it does those of most published checkpoints."""
    return all(bool((w.to(torch.bfloat16).to(w.dtype) == w).all()) for w in weights)


class Packing:
    """Packs weights for kernels that compute in `dtype`; `half` (float32 only) stores them as bfloat16.

    Half the bytes to read a step. Lossless where `fits_bfloat16`, then no result changes by a bit.
    """

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, half: bool) -> None:
        self.half = half and dtype == torch.float32
        self.name = NAMES[dtype] + ("_bf16" if self.half else "")
        self.library = library
        self._pack = getattr(library, f"od_pack_{self.name}")
        self._stored = torch.bfloat16 if self.half else dtype

    def plain(self, weight_OI: Tensor) -> Tensor:
        """A packed copy, flat; outputs are padded with zeros."""
        weight_OI = weight_OI.detach().contiguous()
        outs, ins = weight_OI.shape
        panels = torch.empty(padded(outs) * ins, dtype=self._stored)
        self._pack(weight_OI.data_ptr(), outs, ins, panels.data_ptr())
        return panels

    def heads(self, weight_OI: Tensor, head_size: int) -> Tensor:
        """As `plain`, each head's outputs padded on their own."""
        heads_HDI = weight_OI.detach().view(-1, head_size, weight_OI.shape[1])
        filled = functional.pad(heads_HDI, (0, 0, 0, padded(head_size) - head_size))
        return self.plain(filled.reshape(-1, weight_OI.shape[1]))

    def pairs(self, gate_up_OI: Tensor) -> Tensor:
        """A matrix [gate; up] with panels taking turns: gate, up, gate, up."""
        gate, up = gate_up_OI.detach().chunk(2)
        size, ins = gate.shape
        filled = (functional.pad(half, (0, 0, 0, padded(size) - size)) for half in (gate, up))
        panels = torch.stack([half.view(-1, LANES, ins) for half in filled], dim=1)
        return self.plain(panels.reshape(-1, ins))


class Weights:
    """Tensors that compiled code reads, in the order in which it takes their addresses. Keeps them alive."""

    def __init__(self) -> None:
        self._kept: list[Tensor | None] = []

    def give(self, *tensors: Tensor | None) -> None:
        """Hand over tensors as they are; None becomes a null pointer."""
        self._kept += tensors

    def copy(self, *tensors: Tensor | None) -> None:
        """Hand over copies, so that later changes in place aren't seen halfway."""
        self._kept += [None if t is None else t.detach().clone().contiguous() for t in tensors]

    def pointers(self) -> NDArray[np.int64]:
        """The addresses."""
        return np.array([0 if t is None else t.data_ptr() for t in self._kept], dtype=np.int64)
