"""Sequences with different adapters share a batch, and each is drafted for as if it were alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from online_draft.errors import ArtifactError
from online_draft.models.adapters.adapter import Adapter, LowRank
from online_draft.models.adapters.merge import merged
from online_draft.models.adapters.stack import AdapterStack
from online_draft.models.amphista import Amphista, AmphistaConfig
from online_draft.models.ring import FeatureRing

Make = Callable[..., Adapter]
SIZE, VOCAB, SLOTS = 16, 40, 4
CONFIG = AmphistaConfig(
    hidden_size=SIZE,
    vocab_size=VOCAB,
    num_heads=4,
    stages=2,
    window=12,
    attention_heads=2,
    intermediate_size=24,
    markov_rank=4,
    chunk=4,
    max_positions=200,
)
VARIANTS = {
    "default": CONFIG,
    "sources": replace(CONFIG, sources=(2, 1, 0, 0), block_layers=2),
    "one stage": replace(CONFIG, stages=1),
    "no stage": replace(CONFIG, stages=0, block_layers=0),
    "block context": replace(CONFIG, block_context=5),
}


class Weights:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.embedding_VF = torch.randn(VOCAB, SIZE, generator=generator, dtype=torch.float64)
        self.lm_head_VF = torch.randn(VOCAB, SIZE, generator=generator, dtype=torch.float64)
        self.norm = torch.full((SIZE,), 3.0, dtype=torch.float64)

    def logits(self, hidden_NF: Tensor) -> Tensor:
        return hidden_NF @ self.lm_head_VF.T


def make(config: AmphistaConfig = CONFIG) -> Amphista:
    torch.manual_seed(0)
    drafter = Amphista(config).double()
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.normal_(std=0.3)
    drafter.bind(Weights())
    return drafter


def fill(ring: FeatureRing, slot: int, rows: int, generator: torch.Generator) -> None:
    hidden = torch.randn(rows, SIZE, generator=generator, dtype=torch.float64)
    ring.append(slot, hidden, torch.randint(0, VOCAB, (rows,), generator=generator))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_mixed_batch_drafts_what_merged_drafters_draft(variant: str, make_adapter: Make) -> None:
    drafter = make(VARIANTS[variant])
    adapters = [make_adapter(drafter, rank=3, seed=1), make_adapter(drafter, rank=5, seed=2)]
    alone = [drafter, *(merged(drafter, each) for each in adapters)]
    states = [each.new_state(SLOTS) for each in alone]
    stack = AdapterStack(drafter.adapter_sites(), 3, 6, torch.float64)
    for place, each in enumerate(adapters, start=1):
        stack.put(place, each)
    state = drafter.new_state(SLOTS)
    state.adapters = stack
    places = [1, 0, 2, 1]
    for slot, place in enumerate(places):
        state.assign(slot, place)
    ring = FeatureRing(SLOTS, 12, SIZE, torch.float64)
    generator, choose = torch.Generator().manual_seed(5), random.Random(5)
    for _ in range(25):
        for slot in range(SLOTS):
            fill(ring, slot, choose.choice([1, 1, 2, 3, 7]), generator)
        slots = choose.sample(range(SLOTS), 3)
        drafted = drafter.draft(state, ring, slots).base_logits_SKV
        for row, slot in enumerate(slots):
            own = places[slot]
            expected = alone[own].draft(states[own], ring, [slot]).base_logits_SKV[0]
            torch.testing.assert_close(drafted[row], expected, rtol=1e-9, atol=1e-9)
    plain = drafter.draft(drafter.new_state(SLOTS), ring, [0]).base_logits_SKV
    assert not torch.allclose(drafter.draft(state, ring, [0]).base_logits_SKV, plain, atol=1e-3)


def test_a_change_of_adapter_makes_the_memory_anew(make_adapter: Make) -> None:
    drafter = make()
    stack = AdapterStack(drafter.adapter_sites(), 2, 4, torch.float64)
    stack.put(1, make_adapter(drafter))
    state, ring = drafter.new_state(2), FeatureRing(2, 12, SIZE, torch.float64)
    state.adapters = stack
    generator = torch.Generator().manual_seed(0)
    for slot in range(2):
        fill(ring, slot, 20, generator)
    drafter.draft(state, ring, [0, 1])
    epochs = list(state.epoch)
    state.assign(0, 1)
    state.assign(1, 0)
    assert state.epoch == [0, epochs[1]]
    fresh = drafter.new_state(2)
    fresh.adapters = stack
    fresh.assign(0, 1)
    expected = drafter.draft(fresh, ring, [0, 1]).base_logits_SKV
    torch.testing.assert_close(drafter.draft(state, ring, [0, 1]).base_logits_SKV, expected)


def test_the_stack_never_moves_and_a_cleared_place_changes_nothing(make_adapter: Make) -> None:
    drafter = make()
    stack = AdapterStack(drafter.adapter_sites(), 2, 4, torch.float64)
    where = [tensor.data_ptr() for tensor in (*stack.down_PGRI.values(), *stack.up_PGRO.values())]
    stack.put(2, make_adapter(drafter, rank=4))
    stack.put(2, make_adapter(drafter, rank=2, seed=1))
    assert [t.data_ptr() for t in (*stack.down_PGRI.values(), *stack.up_PGRO.values())] == where
    assert not stack.down_PGRI["join"][2, :, 2:].any(), "what a larger rank left behind"
    stack.clear(2)
    assert not any(tensor.any() for tensor in (*stack.down_PGRI.values(), *stack.up_PGRO.values()))
    assert stack.changes([0, 0]) is None


def test_what_does_not_fit_is_refused(make_adapter: Make) -> None:
    drafter = make()
    good = make_adapter(drafter, rank=4)
    with pytest.raises(ArtifactError, match="adapter_rank"):
        AdapterStack(drafter.adapter_sites(), 1, 3, torch.float64).put(1, good)
    with pytest.raises(ArtifactError, match="medusa heads"):
        replace(good, card=replace(good.card, kind="medusa")).check(drafter)
    with pytest.raises(ArtifactError, match=r"no layer 'stages.1.qkv'"):
        good.check(make(VARIANTS["one stage"]))
    bent = LowRank(good.weights["join"].down_RI[:, 1:], good.weights["join"].up_OR)
    with pytest.raises(ArtifactError, match="join: A and B have shapes"):
        replace(good, weights={**good.weights, "join": bent}).check(drafter)
