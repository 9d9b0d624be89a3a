"""Blocks are owned once or free."""

import random

import pytest

from online_draft.decoding.blocks import BlockAllocator


def test_slots_of_one_owner_are_distinct_and_never_the_padding_block() -> None:
    allocator = BlockAllocator(num_slots=160, block_size=16)
    slots = allocator.allocate("a", 40)
    assert slots is not None
    assert len(slots) == 48
    assert len(set(slots)) == 48
    assert min(slots) >= 16


def test_what_does_not_fit_takes_nothing() -> None:
    allocator = BlockAllocator(num_slots=64, block_size=16)
    assert allocator.allocate("a", 49) is None
    assert allocator.free_blocks == allocator.usable_blocks == 3


def test_random_lifecycles_leave_every_block_free() -> None:
    rng = random.Random(5)
    allocator = BlockAllocator(num_slots=1024, block_size=16)
    owners: set[str] = set()
    for step in range(2000):
        if owners and rng.random() < 0.5:
            owner = rng.choice(sorted(owners))
            owners.remove(owner)
            allocator.release(owner)
            allocator.release(owner)
        elif allocator.allocate(str(step), rng.randint(1, 300)) is not None:
            owners.add(str(step))
        allocator.check_integrity()
    for owner in owners:
        allocator.release(owner)
    assert allocator.free_blocks == allocator.usable_blocks


def test_a_leak_is_noticed() -> None:
    allocator = BlockAllocator(num_slots=64, block_size=16)
    allocator.allocate("a", 16)
    allocator._owned.clear()
    with pytest.raises(AssertionError, match="leaked"):
        allocator.check_integrity()
