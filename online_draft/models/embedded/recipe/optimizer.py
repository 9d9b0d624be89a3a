"""Muon for the matrices and AdamW for the rest, as one optimizer with a flat, safetensors-friendly state.

Muon after Keller Jordan: momentum, orthogonalised by five Newton-Schulz steps; batched over equal shapes.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from online_draft.models.embedded.recipe.model import TinyLlama


def orthogonalise(x_NRC: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly, of a batch [N, R, C] with R <= C; computed in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x_NRC.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    directions: Tensor = x.float()
    return directions


class MuonAdamW:
    """Steps a TinyLlama in place; learning rates are multiplied by `scale` at each step."""

    def __init__(
        self, model: TinyLlama, *, muon_rate: float = 0.02, adam_rate: float = 3e-3, decay: float = 0.02
    ) -> None:
        self.muon_rate, self.adam_rate, self.decay = muon_rate, adam_rate, decay
        self.steps = 0
        parameters = dict(model.named_parameters())
        self.matrices = {n: p for n, p in parameters.items() if p.ndim == 2 and n.startswith("blocks.")}
        self.others = {n: p for n, p in parameters.items() if n not in self.matrices}
        self.state: dict[str, Tensor] = {}
        for name, parameter in self.matrices.items():
            self.state[f"{name}.momentum"] = torch.zeros_like(parameter)
        for name, parameter in self.others.items():
            self.state[f"{name}.mean"] = torch.zeros_like(parameter)
            self.state[f"{name}.square"] = torch.zeros_like(parameter)
        shape = model.shape
        query, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self._parts = {"qkv": [query, keys, keys], "gate_up": [shape.intermediate_size] * 2}

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Apply the gradients of all parameters once and clear them."""
        self.steps += 1
        self._step_matrices(scale * self.muon_rate)
        self._step_others(scale * self.adam_rate)
        for parameter in (*self.matrices.values(), *self.others.values()):
            parameter.grad = None

    def _step_matrices(self, rate: float) -> None:
        groups: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for name, parameter in self.matrices.items():
            assert parameter.grad is not None
            momentum = self.state[f"{name}.momentum"]
            momentum.lerp_(parameter.grad, 0.05)
            update = parameter.grad.lerp(momentum, 0.95)
            sizes = self._parts.get(name.split(".")[2], [parameter.shape[0]])
            for weight, part in zip(torch.split(parameter, sizes), torch.split(update, sizes), strict=True):
                flip = part.shape[0] > part.shape[1]
                weight, part = (weight.mT, part.mT) if flip else (weight, part)
                groups[part.shape[0], part.shape[1]].append((weight, part))
        for pairs in groups.values():
            directions = orthogonalise(torch.stack([part for _, part in pairs]))
            for (weight, _), direction in zip(pairs, directions, strict=True):
                weight.mul_(1 - rate * self.decay)
                weight.add_(direction, alpha=-rate)

    def _step_others(self, rate: float) -> None:
        first, second = 0.9, 0.97
        for name, parameter in self.others.items():
            assert parameter.grad is not None
            mean, square = self.state[f"{name}.mean"], self.state[f"{name}.square"]
            mean.lerp_(parameter.grad, 1 - first)
            square.lerp_(parameter.grad.square(), 1 - second)
            fixed_mean = mean / (1 - first**self.steps)
            fixed_square = square / (1 - second**self.steps)
            parameter.sub_(rate * fixed_mean / (fixed_square.sqrt() + 1e-8))
