"""How an engine's memory is divided."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from online_draft.decoding.config import EngineConfig
from online_draft.decoding.runners.profiling import profile_tokens
from online_draft.errors import ConfigError
from online_draft.models.config import TargetConfig
from online_draft.models.frozen import can_pack
from online_draft.models.native.backend import supports
from online_draft.models.target import PACK_LIMIT_BYTES, Target


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of a budget by what they are for; `kv_tokens` is what fits into `kv`. `step` is the feature
    ring and the working memory of one step or of the start-up profile; what rounding leaves is in none of
    them."""

    target: int
    drafter: int
    learner: int
    step: int
    kv: int
    kv_tokens: int

    @property
    def total(self) -> int:
        """Bytes in all, at most the budget."""
        return self.target + self.drafter + self.learner + self.step + self.kv


def split_memory(
    budget: int,
    target: int,
    step: int,
    kv_token: int,
    block_size: int,
    drafter_share: float = 0.0,
    learner_share: float = 0.0,
) -> MemoryPlan:
    """Divide `budget` bytes: target and step as given, shares for drafter and learner, the rest for KV.

    `kv_token` is the size of one token's keys and values. KV comes in whole blocks, one of them for padding
    and not counted in `kv_tokens`. ConfigError when not even one block is left.
    """
    drafter, learner = int(budget * drafter_share), int(budget * learner_share)
    block = block_size * kv_token
    left = budget - target - step - drafter - learner
    blocks = left // block
    if blocks < 2:
        least = target + step + drafter + learner + 2 * block
        raise ConfigError(
            "engine.memory_bytes",
            f"{budget} bytes leave {max(0, left)} for the KV cache: the target takes {target}, "
            f"a step {step}, drafters {drafter}, the learner {learner}; at least {least} are needed",
        )
    return MemoryPlan(target, drafter, learner, step, blocks * block, (blocks - 1) * block_size)


def kv_tokens_for(config: EngineConfig, target: Target) -> int:
    """Tokens that the KV cache of an engine holds: as configured, or what its memory budget leaves."""
    if config.memory_bytes is None:
        return config.kv_tokens
    return plan_memory(config.memory_bytes, config, target).kv_tokens


def plan_memory(budget: int, config: EngineConfig, target: Target) -> MemoryPlan:
    """`split_memory` for a loaded target."""
    sizes, dtype = target.config, target.dtype
    return split_memory(
        budget,
        target=target_bytes(target, config),
        step=step_bytes(config, sizes, dtype),
        kv_token=kv_token_bytes(sizes, dtype),
        block_size=config.block_size,
        drafter_share=config.drafter_share if config.tree_nodes else 0.0,
        learner_share=config.learner_share,
    )


def target_bytes(target: Target, config: EngineConfig) -> int:
    """A target's weights and their packed copies: torch's up to a limit, that of compiled kernels (less where
    the weights fit bfloat16). With `kernels` "auto" there are both until the kernels are ready.

    Where they don't fit, float32 kernels have one more copy of the LM head, in bfloat16, to draft with.
    """
    weights = sum(parameter.nbytes for parameter in target.parameters())
    native = config.kernels != "off" and supports(target)
    torch_too = weights <= PACK_LIMIT_BYTES and can_pack(target.lm_head_VF)
    copies = max(native, torch_too) if config.kernels == "wait" else native + torch_too
    drafting = native and config.tree_nodes > 0 and target.dtype == torch.float32
    return weights * (1 + copies) + (target.lm_head_VF.nbytes // 2 if drafting else 0)


def kv_token_bytes(sizes: TargetConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers."""
    return 2 * sizes.num_layers * sizes.num_kv_heads * sizes.head_dim * dtype.itemsize


def step_bytes(config: EngineConfig, sizes: TargetConfig, dtype: torch.dtype) -> int:
    """The feature ring, and a generous bound on what one step of `step_rows` rows allocates: hidden rows,
    projections, logits with noise and scores.

    With `speculation` "auto" also the cache and ring on which the start-up profile is measured, whose largest
    step is a full batch of trees.
    """
    ring = config.max_sequences * config.feature_window * (sizes.hidden_size * dtype.itemsize + 8)
    projected = (sizes.num_heads + 2 * sizes.num_kv_heads) * sizes.head_dim
    row = 4 * sizes.hidden_size + 2 * projected + 3 * sizes.intermediate_size
    row_bytes = row * dtype.itemsize + 3 * sizes.vocab_size * max(4, dtype.itemsize)
    if config.speculation != "auto":
        return ring + config.step_rows * row_bytes
    rows = max(config.step_rows, config.max_sequences * (config.tree_nodes + 1))
    return 2 * ring + rows * row_bytes + profile_tokens(config) * kv_token_bytes(sizes, dtype)
