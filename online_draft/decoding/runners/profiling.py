"""What a step costs by its size: measured once on a machine, then read from disk."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

import torch

from online_draft.decoding.batch import SlotTable
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting.forest import Forest
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.policy.profile import (
    ProfileKey,
    StepProfile,
    default_cache_dir,
    load_profile,
    measure_profile,
    row_buckets,
    save_profile,
)
from online_draft.decoding.runners.base import Memory, Runner
from online_draft.decoding.runners.select import RunnerChoice
from online_draft.decoding.sequence import Sequence
from online_draft.models.drafter import Drafter
from online_draft.models.kv import KVCache
from online_draft.models.native.build import processor
from online_draft.models.ring import FeatureRing
from online_draft.models.target import Target

_CONTEXT = 128
"""Tokens that each sequence attends to while a step is timed."""
_BUDGET_S = 0.5
_HOST_S, _DRAFT_HOST_S = 5e-5, 1e-4
"""A first guess of what the engine itself takes per step and for drafting; steps soon tell."""


@dataclass(slots=True)
class _Stand:
    """As much of a sequence as a runner looks at."""

    slot: int
    length: int
    tokens: list[int]


def step_profile(
    runners: RunnerChoice,
    target: Target,
    fingerprint: str,
    drafter: Drafter | None,
    config: EngineConfig,
    threads: int,
) -> StepProfile:
    """The profile of this target on this machine: from disk, else measured in about half a second and kept.

    Not kept where `runners` fell back to another kind while it was measured.
    """
    rows = row_buckets(config.max_sequences, config.tree_nodes)
    kind, heads = (None, 0) if drafter is None else (drafter.kind, drafter.num_heads)
    sizes = f"{config.max_sequences}x{config.tree_nodes}/{config.tree_width}, {heads} heads"
    identity = runners.identity
    path = f"{identity} {kind}, {sizes}"
    key = ProfileKey(fingerprint, _device_name(target.device), str(target.dtype), threads, path)
    profile = load_profile(default_cache_dir(), key, rows)
    if profile is None:
        profile = _measure(runners.make, target, drafter, config, rows)
        if runners.identity == identity:
            save_profile(default_cache_dir(), key, profile)
    return profile


def profile_tokens(config: EngineConfig) -> int:
    """KV tokens that measuring a profile takes, at most."""
    return _CONTEXT + config.max_sequences * _own_rows(config)


def _own_rows(config: EngineConfig) -> int:
    """The most rows of one sequence: those of a step are spread over as many as in a full batch of trees."""
    return 2 * config.tree_nodes + 1


@torch.inference_mode()
def _measure(
    make: Callable[[Memory], Runner],
    target: Target,
    drafter: Drafter | None,
    config: EngineConfig,
    rows: tuple[int, ...],
) -> StepProfile:
    count = config.max_sequences
    context = min(_CONTEXT, (config.max_context or target.config.max_position_embeddings) // 2)
    width = _own_rows(config)
    device = target.device
    table = SlotTable(count, context + width, device)
    # All sequences read the same context and write rows of their own.
    own = torch.arange(count * width, device=device).view(count, width) + context
    table.table[:, :context] = torch.arange(context, device=device)
    table.table[:, context:] = own
    kv = KVCache(target.config, context + count * width, target.dtype, device)
    ring = FeatureRing(count, config.feature_window, target.config.hidden_size, target.dtype, device)
    for slot in range(count):
        ring.append(
            slot,
            torch.zeros(context, ring.hidden_RF.shape[1], dtype=target.dtype, device=device),
            torch.zeros(context, dtype=torch.int64, device=device),
        )
    runner = make(Memory(kv, ring, table))
    state = None if drafter is None else drafter.new_state(count)
    if drafter is not None and state is not None:
        runner.set_drafters([(drafter, state)])

    def stands(sequences: int) -> list[Sequence]:
        return [cast("Sequence", _Stand(slot, context, [0])) for slot in range(sequences)]

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    @cache
    def prepared(total: int, sequences: int) -> tuple[StepPlan, Forest | None]:
        counts = [total // sequences - 1 + (index < total % sequences) for index in range(sequences)]
        nodes = sum(counts)
        if not nodes:
            return StepPlan(plain=stands(sequences)), None
        parent_K = [(node - 1) // 2 for n in counts for node in range(n)]
        forest = Forest(counts, [0] * nodes, parent_K, _depths(parent_K, counts))
        return StepPlan(speculating=stands(sequences)), forest

    def run(total: int, sequences: int) -> None:
        runner.run(*prepared(total, sequences))
        settle()

    def draft(sequences: int) -> None:
        assert state is not None
        runner.draft(state, stands(sequences), config.tree_nodes, config.tree_width)
        settle()

    if device.type == "cuda":
        # The first calls of each size compile kernels and record graphs.
        for _ in range(2):
            measure_profile(run, draft, rows, count, time.perf_counter, 0.0)
    elif drafter is not None:
        # The first call makes every sequence's drafter state.
        draft(count)
    draft_or_none = None if drafter is None else draft
    found = measure_profile(run, draft_or_none, rows, count, time.perf_counter, _BUDGET_S, _HOST_S)
    return replace(found, draft_seconds=tuple(s + _DRAFT_HOST_S for s in found.draft_seconds))


def _depths(parent_K: list[int], counts: list[int]) -> list[int]:
    depths: list[int] = []
    start = 0
    for count in counts:
        own: list[int] = []
        for parent in parent_K[start : start + count]:
            own.append(1 if parent < 0 else own[parent] + 1)
        depths += own
        start += count
    return depths


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {platform.machine()} {hashlib.sha256(processor().encode()).hexdigest()[:12]}"
