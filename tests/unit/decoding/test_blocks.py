"""Blocks are free, cached or held; prefixes are found and evicted."""

from __future__ import annotations

import random

import pytest

from online_draft.decoding.blocks import BlockPool
from online_draft.decoding.prefix import PrefixTable, block_key, root_key


def keys(tenant: str, *blocks: tuple[int, ...]) -> list[bytes]:
    made: list[bytes] = []
    for tokens in blocks:
        made.append(block_key(made[-1] if made else root_key(tenant), tokens))
    return made


def registered(pool: BlockPool, *blocks: tuple[int, ...], tenant: str = "t") -> list[int]:
    """Blocks with these tokens, cached and held by nobody."""
    taken = pool.take(len(blocks))
    assert taken is not None
    for key, block in zip(keys(tenant, *blocks), taken, strict=True):
        pool.register(key, block)
    pool.release(taken)
    return taken


def test_blocks_are_neighbours_and_never_the_padding_block() -> None:
    pool = BlockPool(num_slots=160, block_size=16)
    assert pool.take(3) == [1, 2, 3]
    assert pool.take(2) == [4, 5]
    assert pool.usable == 9


def test_growth_prefers_the_block_behind_the_last_one() -> None:
    pool = BlockPool(num_slots=160, block_size=16)
    first = pool.take(2)
    assert first == [1, 2]
    pool.take(1)
    pool.release([2])
    assert pool.take(1, after=5) == [6]
    assert pool.take(1, after=1) == [2]


def test_what_does_not_fit_takes_nothing() -> None:
    pool = BlockPool(num_slots=64, block_size=16)
    assert pool.take(4) is None
    assert pool.available == pool.usable == 3


def test_a_key_stands_for_all_tokens_before_it_and_for_the_tenant() -> None:
    assert keys("a", (1, 2), (3, 4)) == keys("a", (1, 2), (3, 4))
    assert keys("a", (1, 2), (3, 4))[1] != keys("a", (2, 1), (3, 4))[1]
    assert keys("a", (1, 2))[0] != keys("b", (1, 2))[0]
    assert len({*keys("a", (1, 2), (1, 2)), *keys("b", (1, 2), (1, 2))}) == 4


def test_a_released_prefix_is_found_until_nothing_else_is_left() -> None:
    pool = BlockPool(num_slots=80, block_size=16)
    known = keys("t", (1,), (2,))
    blocks = registered(pool, (1,), (2,))
    assert pool.cached == 2
    assert pool.prefixes.match(known) == blocks
    assert pool.take(2) is not None
    assert pool.prefixes.match(known) == blocks
    pool.take(1)
    assert pool.evictions == 1
    assert pool.prefixes.match(known) == blocks[:1], "the far end goes first"
    pool.take(1)
    assert pool.prefixes.match(known) == []
    assert pool.available == 0


def test_the_longest_unused_prefix_is_evicted_first() -> None:
    pool = BlockPool(num_slots=64, block_size=16)
    a = registered(pool, (1,))
    b = registered(pool, (2,))
    pool.share(a)
    pool.release(a)
    assert pool.take(2) == [3, *b]
    assert pool.prefixes.match(keys("t", (1,))) == a
    assert pool.prefixes.match(keys("t", (2,))) == []


def test_a_shared_block_stays_until_its_last_holder_lets_go() -> None:
    pool = BlockPool(num_slots=64, block_size=16)
    blocks = registered(pool, (1,))
    pool.share(blocks)
    pool.share(blocks)
    assert pool.idle(blocks) == pool.cached == 0
    assert not pool.is_private(blocks[0])
    pool.check_integrity([blocks, blocks])
    pool.release(blocks)
    assert pool.cached == 0
    assert pool.take(3) is None
    pool.release(blocks)
    assert pool.cached == pool.idle(blocks) == 1
    pool.check_integrity([])


def test_of_two_blocks_with_equal_prefixes_the_first_is_kept() -> None:
    table = PrefixTable()
    key = keys("t", (1,))[0]
    assert table.register(key, 1)
    assert not table.register(key, 2)
    assert table.match([key]) == [1]
    table.forget(1)
    assert len(table) == 0


def test_random_lifecycles_leave_every_block_available() -> None:
    rng = random.Random(5)
    pool = BlockPool(num_slots=512, block_size=16)
    held: list[list[int]] = []
    for _ in range(2000):
        action = rng.random()
        prefix = [(rng.randrange(3),) for _ in range(rng.randint(1, 6))]
        if held and action < 0.5:
            pool.release(held.pop(rng.randrange(len(held))))
        elif action < 0.8:
            found = pool.prefixes.match(keys("t", *prefix))
            pool.share(found)
            taken = pool.take(len(prefix) - len(found), found[-1] if found else 0)
            if taken is None:
                pool.release(found)
            else:
                held.append(found + taken)
                for key, block in zip(keys("t", *prefix), held[-1], strict=True):
                    pool.register(key, block)
        else:
            taken = pool.take(rng.randint(1, 8))
            if taken is not None:
                held.append(taken)
        pool.check_integrity(held)
    for blocks in held:
        pool.release(blocks)
    assert pool.available == pool.usable
    assert pool.evictions > 0


def test_a_leak_is_noticed() -> None:
    pool = BlockPool(num_slots=64, block_size=16)
    taken = pool.take(1)
    pool.check_integrity([taken])
    with pytest.raises(AssertionError, match="miscounted"):
        pool.check_integrity([])
    pool._holders[1] = 0
    with pytest.raises(AssertionError, match="leaked"):
        pool.check_integrity([])


def test_a_torn_prefix_table_is_noticed() -> None:
    pool = BlockPool(num_slots=64, block_size=16)
    (block,) = registered(pool, (1,))
    pool.prefixes._keys[block] = b"other"
    with pytest.raises(AssertionError, match="torn"):
        pool.check_integrity([])
