"""The optimiser of draft heads and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from online_draft.training.trainer_config import TrainerConfig


def build_optimizer(named: Mapping[str, nn.Parameter], config: TrainerConfig) -> torch.optim.AdamW:
    """AdamW whose Markov tables learn `markov_rate` times as fast; see `set_rate`."""
    fast = {name for name in named if name.startswith("markov")}
    groups = [
        {"params": [p for name, p in named.items() if (name in fast) == quick], "scale": scale}
        for quick, scale in ((False, 1.0), (True, config.markov_rate))
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
        fused=True,
    )


def set_rate(optimizer: torch.optim.Optimizer, config: TrainerConfig, step: int, factor: float = 1.0) -> None:
    """The learning rate of the update with this number, counted from 1, times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * schedule(config, step) * group["scale"] * factor


def schedule(config: TrainerConfig, step: int) -> float:
    """The part of the highest learning rate that update `step` has: a rise, then a cosine to a twentieth."""
    rise = min(1.0, step / max(1, config.warmup_steps))
    if not config.decay_steps:
        return rise
    done = min(1.0, step / config.decay_steps)
    return rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
