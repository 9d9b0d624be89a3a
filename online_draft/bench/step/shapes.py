"""Shapes of well-known models, filled with random weights: speed does not depend on what they know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from online_draft.errors import ConfigError
from online_draft.models.config import TargetConfig
from online_draft.models.loading import LoadedTarget
from online_draft.models.native.pack import NAMES
from online_draft.models.target import Target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHAPES = {
    "135m": TargetConfig(
        architecture="llama",
        vocab_size=49152,
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        intermediate_size=1536,
        tie_word_embeddings=True,
    ),
    "1b": TargetConfig(
        architecture="llama",
        vocab_size=128256,
        hidden_size=2048,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        intermediate_size=8192,
        rope_theta=500000.0,
        tie_word_embeddings=True,
    ),
    "7b": TargetConfig(
        architecture="llama",
        vocab_size=32000,
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        intermediate_size=11008,
    ),
}
"""SmolLM-135M, Llama-3.2-1B and Llama-2-7B, with 2,048 positions."""


class _NoText:
    """Stands where the engine wants a tokenizer: random weights say nothing."""

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return ""


def shape(name: str, layers: int | None) -> TargetConfig:
    """A shape by its name, cut to so many layers."""
    config = SHAPES[name]
    return config if layers is None else replace(config, num_layers=layers)


def random_loaded(config: TargetConfig, dtype: torch.dtype, device: str) -> LoadedTarget:
    """A target of this shape with seeded random weights, drawn on the device itself."""
    target = Target(config, dtype, device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            if name.endswith("norm"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
    tokenizer = cast("PreTrainedTokenizerBase", _NoText())
    return LoadedTarget(target, tokenizer, config, "random", "random", Path())


def check_memory(config: TargetConfig, dtype: torch.dtype, device: str, kv_tokens: int, free: int) -> None:
    """Raise ConfigError when it doesn't all fit into `free` bytes: weights, their packed copy, the floor's
    buffer, the drafter and so many tokens of KV cache."""
    weights = parameter_count(config) * dtype.itemsize
    packs = device == "cpu" and dtype in NAMES
    kv = 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize * kv_tokens
    drafter = 60 * config.hidden_size**2 * dtype.itemsize
    needed = weights * (3 if packs else 2) + kv + drafter
    if needed > free:
        raise ConfigError(
            "random-init",
            f"needs about {needed / 2**30:.1f} GiB on {device}, {free / 2**30:.1f} GiB are available; "
            "use fewer --layers or --dtype bfloat16",
        )


def parameter_count(config: TargetConfig) -> int:
    """Weights of a target in all; nothing is allocated."""
    return sum(parameter.numel() for parameter in Target(config, torch.float32, "meta").parameters())
