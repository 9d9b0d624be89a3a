"""A memory budget is divided without remainder that counts, and never overdrawn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding import memory
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.decoding.memory import kv_token_bytes, plan_memory, split_memory, target_bytes
from online_draft.errors import ConfigError
from online_draft.models.frozen import can_pack

MIB = 1 << 20


def test_the_cache_gets_what_the_others_leave() -> None:
    plan = split_memory(
        100 * MIB,
        target=40 * MIB,
        step=10 * MIB,
        kv_token=1024,
        block_size=16,
        drafter_share=0.1,
        learner_share=0.2,
    )
    assert (plan.target, plan.drafter, plan.learner, plan.step) == (40 * MIB, 10 * MIB, 20 * MIB, 10 * MIB)
    assert plan.kv == 20 * MIB
    assert plan.kv_tokens == 20 * 1024 - 16, "one block is for padding"


@given(
    budget=st.integers(1, 10**12),
    target=st.integers(0, 10**11),
    step=st.integers(0, 10**10),
    kv_token=st.integers(1, 10**6),
    block_size=st.sampled_from([1, 16, 64]),
    drafter=st.floats(0, 0.5),
    learner=st.floats(0, 0.5),
)
def test_no_split_overdraws_its_budget_or_wastes_a_block(
    budget, target, step, kv_token, block_size, drafter, learner
) -> None:
    block = kv_token * block_size
    try:
        plan = split_memory(budget, target, step, kv_token, block_size, drafter, learner)
    except ConfigError as error:
        assert error.field == "engine.memory_bytes"
        assert budget - target - step - int(budget * drafter) - int(budget * learner) < 2 * block
        return
    assert budget - block < plan.total <= budget
    assert plan.kv_tokens >= block_size
    assert plan.kv_tokens % block_size == 0


def test_too_small_a_budget_says_what_takes_how_much() -> None:
    with pytest.raises(ConfigError, match=r"engine\.memory_bytes: 1000 bytes leave 0 .*target takes 5000"):
        split_memory(1000, target=5000, step=0, kv_token=8, block_size=16)


def test_an_engine_sizes_its_cache_by_the_budget(tiny_target, decode) -> None:
    loaded = tiny_target(dtype=torch.float32)
    config = EngineConfig(max_sequences=2, feature_window=32, step_rows=32, memory_bytes=4 * MIB)
    engine = Engine(loaded, config)
    plan = plan_memory(4 * MIB, config, loaded.target)
    assert engine.cache_stats().blocks == plan.kv_tokens // 16
    assert engine._kv.nbytes == plan.kv
    assert kv_token_bytes(loaded.config, torch.float32) * (plan.kv_tokens + 16) == plan.kv
    decode(engine, [GenerationRequest("a", (1, 2, 3), SamplingParams(max_tokens=5))])


def test_a_learner_on_the_same_device_leaves_less(tiny_target) -> None:
    target = tiny_target(dtype=torch.float32).target
    alone = EngineConfig(memory_bytes=64 * MIB)
    shared = EngineConfig(memory_bytes=64 * MIB, learner_share=0.3)
    plain = EngineConfig(memory_bytes=64 * MIB, tree_nodes=0)
    tokens = [plan_memory(64 * MIB, config, target).kv_tokens for config in (shared, alone, plain)]
    assert tokens == sorted(tokens)
    assert len(set(tokens)) == 3


@pytest.mark.parametrize(
    ("kernels", "dtype", "nodes", "copies"),
    [
        ("off", torch.float32, 16, 1),
        ("wait", torch.float32, 0, 1),
        ("auto", torch.float32, 0, 2),
        ("auto", torch.float64, 16, 1),
        ("off", torch.float64, 16, 0),
    ],
)
def test_every_packed_copy_of_a_target_is_counted(
    tiny_target, kernels: str, dtype: torch.dtype, nodes: int, copies: int
) -> None:
    """Torch packs float32 alone, kernels both; with "auto" there are both until the kernels take over."""
    target = tiny_target(dtype=dtype).target
    if not can_pack(torch.empty(1, 1)):
        pytest.skip("torch can't pack on this machine")
    weights = sum(parameter.nbytes for parameter in target.parameters())
    config = EngineConfig(kernels=kernels, tree_nodes=nodes)  # type: ignore[arg-type]
    assert target_bytes(target, config) == weights * (1 + copies)


def test_the_lm_head_that_float32_kernels_draft_with_is_counted(tiny_target) -> None:
    target = tiny_target(dtype=torch.float32).target
    drafting, plain = (target_bytes(target, EngineConfig(tree_nodes=nodes)) for nodes in (4, 0))
    assert drafting - plain == 2 * target.lm_head_VF.numel()


def test_a_target_too_large_for_torch_to_pack_is_packed_by_the_kernels_alone(
    tiny_target, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tiny_target(dtype=torch.float32).target
    monkeypatch.setattr(memory, "PACK_LIMIT_BYTES", 1000)
    weights = sum(parameter.nbytes for parameter in target.parameters())
    for kernels, copies in (("auto", 1), ("off", 0)):
        config = EngineConfig(kernels=kernels, tree_nodes=0)  # type: ignore[arg-type]
        assert target_bytes(target, config) == weights * (1 + copies)
