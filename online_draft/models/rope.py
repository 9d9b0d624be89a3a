"""Rotary position embedding (Su et al. 2021) in the half-split layout of transformers.

Shapes: X any leading shape of positions, H heads, D head size, P table length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RopeKind = Literal["default", "linear", "llama3"]

Rotation = tuple[Tensor, Tensor]
"""Cosine and signed sine of some positions, each [*X, 1, D]; made once a step, used by every layer."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How frequencies are stretched for long contexts. The last three fields belong to `llama3` only."""

    kind: RopeKind = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Angle a position adds to each of the head_dim / 2 pairs, float32, bit-equal to transformers'."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
    plain = 1.0 / (theta**exponents)
    if scaling.kind == "default":
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    wavelength = 2 * math.pi / plain
    low = scaling.original_max_positions / scaling.low_freq_factor
    high = scaling.original_max_positions / scaling.high_freq_factor
    share = scaling.original_max_positions / wavelength - scaling.low_freq_factor
    share = share / (scaling.high_freq_factor - scaling.low_freq_factor)
    between = (1 - share) * plain / scaling.factor + share * plain
    stretched = torch.where(wavelength > low, plain / scaling.factor, between)
    return torch.where(wavelength < high, plain, stretched)


class RotaryEmbedding:
    """Table of rotations for positions 0 .. max_positions - 1, kept per device and dtype.

    Angles are computed in float32 whatever the model's dtype, as transformers does. A table rather than a
    computation per step: equal positions get equal bits in every batch shape. Not a module: nothing to save.
    """

    def __init__(
        self, head_dim: int, max_positions: int, theta: float = 10000.0, scaling: RopeScaling | None = None
    ) -> None:
        self.head_dim = head_dim
        self.max_positions = max_positions
        self.theta = theta
        self.scaling = scaling or RopeScaling()
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def rotation(self, position_ids_X: Tensor, dtype: torch.dtype) -> Rotation:
        """Rotations for integer positions of any shape, on their device. Each result is [*X, 1, D].

        Positions at or beyond `max_positions` raise IndexError on the CPU.
        """
        rows_X2D = self.table(position_ids_X.device, dtype)[position_ids_X]
        return rows_X2D[..., 0:1, :], rows_X2D[..., 1:2, :]

    def table(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Cosines and signed sines of all positions [P, 2, D]; made at the first call."""
        table_P2D = self._tables.get((device, dtype))
        if table_P2D is None:
            # An inference tensor could not be used later in a graph that trains a drafter.
            with torch.inference_mode(False), torch.no_grad():
                inverse = inverse_frequencies(self.head_dim, self.theta, self.scaling)
                angles = torch.arange(self.max_positions, dtype=torch.float32)[:, None] * inverse
                cos, sin = angles.cos(), angles.sin()
                # rotate() swaps the halves without negating; the sign of rotate_half sits in the table.
                pair = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), dim=1)
                table_P2D = pair.to(device=device, dtype=dtype)
            self._tables[(device, dtype)] = table_P2D
        return table_P2D


def rotate(x_XHD: Tensor, rotation: Rotation) -> Tensor:
    """Rotate queries or keys [*X, H, D] by the rotations of their positions; differentiable, new tensor."""
    cos, signed_sin = rotation
    left, right = x_XHD.chunk(2, dim=-1)
    return torch.addcmul(x_XHD * cos, torch.cat((right, left), dim=-1), signed_sin)


def rotate_(x_XHD: Tensor, rotation: Rotation) -> None:
    """`rotate` in place, for queries and keys that no graph needs."""
    cos, signed_sin = rotation
    swapped = x_XHD.roll(x_XHD.shape[-1] // 2, -1)
    x_XHD.mul_(cos).addcmul_(swapped, signed_sin)
