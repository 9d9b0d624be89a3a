"""Compiled code drafts with adapters what torch drafts, row by row, and without one what it always did."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from online_draft.models.adapters.adapter import Adapter
from online_draft.models.adapters.stack import AdapterStack
from online_draft.models.amphista import Amphista, AmphistaConfig
from online_draft.models.config import TargetConfig
from online_draft.models.loading import random_target
from online_draft.models.native.amphista import NativeAmphista
from online_draft.models.native.backend import NativeBackend
from online_draft.models.native.pack import Packing
from online_draft.models.ring import FeatureRing
from online_draft.models.target import Target

SIZE, VOCAB = 44, 250


def odd_target(dtype: torch.dtype) -> Target:
    """Sizes that aren't multiples of the kernels' sixteen lanes."""
    config = replace(
        TargetConfig.tiny("llama", False, VOCAB), hidden_size=SIZE, intermediate_size=70, head_dim=22
    )
    return random_target(config, 0, dtype)


def drafter_for(target: Target, **sizes: object) -> Amphista:
    torch.manual_seed(0)
    config = AmphistaConfig(
        hidden_size=SIZE,
        vocab_size=VOCAB,
        num_heads=5,
        window=20,
        attention_heads=2,
        intermediate_size=50,
        markov_rank=8,
        chunk=4,
        max_positions=400,
        **{"stages": 2, **sizes},  # type: ignore[arg-type]
    )
    drafter = Amphista(config).to(target.dtype)
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.normal_(std=0.2)
    drafter.bind(target)
    return drafter


def stack_of(drafter: Amphista, make_adapter: Callable[..., Adapter], ranks: list[int]) -> AdapterStack:
    stack = AdapterStack(drafter.adapter_sites(), len(ranks), 18, drafter.residual_KFF.dtype)
    for place, rank in enumerate(ranks, start=1):
        stack.put(place, make_adapter(drafter, rank=rank, seed=place, scale=0.2))
    return stack


@pytest.mark.parametrize(
    "sizes", [{}, {"stages": 1}, {"stages": 0}, {"sources": (1, 0, 2, 0, 1)}, {"block_layers": 2}]
)
def test_a_mixed_batch_equals_torch_step_by_step(
    library: ctypes.CDLL, make_adapter: Callable[..., Adapter], sizes: dict[str, object]
) -> None:
    target = odd_target(torch.float64)
    drafter = drafter_for(target, **sizes)
    backend = NativeBackend(library, target, threads=2)
    stack = stack_of(drafter, make_adapter, [3, 18])
    torch_state, state = drafter.new_state(4), drafter.new_state(4)
    torch_state.adapters = state.adapters = stack
    native = NativeAmphista(backend.target.packing, drafter, state, backend.pool, backend.target.lm_head)
    ring = FeatureRing(4, 32, SIZE, target.dtype)
    rng = random.Random(0)
    generator = torch.Generator().manual_seed(0)

    def feed(slot: int, rows: int) -> None:
        hidden = torch.randn(rows, SIZE, generator=generator, dtype=target.dtype)
        ring.append(slot, hidden, torch.randint(0, VOCAB, (rows,), generator=generator))

    for slot in range(4):
        feed(slot, rng.randint(1, 60))
    for _ in range(25):
        slot, place = rng.randrange(4), rng.randrange(3)
        torch_state.assign(slot, place)
        state.assign(slot, place)
        slots = rng.sample(range(4), rng.randint(1, 4))
        expected = drafter.draft(torch_state, ring, slots).base_logits_SKV
        torch.testing.assert_close(native.logits(ring, slots), expected, rtol=0, atol=1e-10)
        for slot in slots:
            feed(slot, rng.randint(0, 7))


def test_what_has_no_adapter_keeps_its_bits_beside_what_has_one(
    library: ctypes.CDLL, make_adapter: Callable[..., Adapter]
) -> None:
    target = odd_target(torch.float32)
    drafter = drafter_for(target)
    backend = NativeBackend(library, target, threads=2)
    ring = FeatureRing(3, 32, SIZE, target.dtype)
    for slot in range(3):
        ring.append(slot, torch.randn(30, SIZE), torch.randint(0, VOCAB, (30,)))

    def drafted(places: list[int]) -> Tensor:
        state = drafter.new_state(3)
        state.adapters = stack_of(drafter, make_adapter, [4]) if any(places) else None
        for slot, place in enumerate(places):
            state.assign(slot, place)
        packing = Packing(library, target.dtype, half=True)
        return NativeAmphista(packing, drafter, state, backend.pool).logits(ring, [0, 1, 2])

    plain, mixed = drafted([0, 0, 0]), drafted([0, 1, 0])
    assert torch.equal(plain[[0, 2]], mixed[[0, 2]])
    assert not torch.allclose(plain[1], mixed[1], atol=1e-3)
