"""How far training may lead from the weights that it began with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Leash:
    """Keeps weights within `length` times the norm of those it was tied to, by moving them straight back."""

    def __init__(self, weights: Mapping[str, Tensor], length: float) -> None:
        self._length = length
        self.pulls = 0
        """Updates that went too far."""
        self.tie(weights)

    @torch.no_grad()
    def tie(self, weights: Mapping[str, Tensor]) -> None:
        """Hold to (a copy of) these from now on."""
        self._held = {
            name: tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
            for name, tensor in weights.items()
        }
        self._norm = _norm(list(self._held.values()))

    @torch.no_grad()
    def hold(self, weights: Mapping[str, Tensor]) -> float:
        """Move weights back if they are too far; their distance before, in norms of the held ones."""
        held = [self._held[name] for name in weights]
        away = torch._foreach_sub(list(weights.values()), held)
        distance = _norm(list(away)) / max(self._norm, 1e-12)
        if distance > self._length:
            self.pulls += 1
            torch._foreach_mul_(away, self._length / distance)
            torch._foreach_copy_(list(weights.values()), torch._foreach_add(away, held))
        return distance


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack(list(torch._foreach_norm(tensors))).norm()) if tensors else 0.0
