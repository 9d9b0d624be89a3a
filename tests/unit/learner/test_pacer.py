from __future__ import annotations

import pytest

from online_draft.learner.idle.pacer import Pacer


def settle(pacer: Pacer, per_record_ms: float, slices: int = 30) -> None:
    for _ in range(slices):
        pacer.note(pacer.batch, pacer.batch * per_record_ms)


def test_grows_to_what_fits_into_the_limit() -> None:
    pacer = Pacer(limit_ms=200, max_batch=64)
    settle(pacer, 10)
    assert pacer.batch == 16
    assert pacer.batch * 10 <= 200


def test_never_exceeds_the_largest_batch_nor_falls_below_one_record() -> None:
    pacer = Pacer(limit_ms=200, max_batch=8)
    settle(pacer, 1)
    assert pacer.batch == 8
    settle(pacer, 1000)
    assert pacer.batch == 1


def test_one_slice_over_the_limit_shrinks_the_next() -> None:
    pacer = Pacer(limit_ms=200, max_batch=64)
    settle(pacer, 10)
    pacer.note(16, 400)
    assert pacer.batch <= 8


def test_a_slow_first_slice_is_warming_up() -> None:
    pacer = Pacer(limit_ms=200, max_batch=64)
    pacer.note(1, 5000)
    pacer.note(1, 10)
    assert pacer.batch == 2


def test_measures_its_own_cpu_time() -> None:
    pacer = Pacer(limit_ms=200, max_batch=4)
    with pacer as count:
        assert count == 1
        sum(range(20_000))
    assert 0 < pacer.last_ms < 200


def test_a_slice_that_ended_early_says_nothing() -> None:
    pacer = Pacer(limit_ms=200, max_batch=64)
    settle(pacer, 10)
    before = pacer.batch
    with pacer:
        pacer.void()
    assert pacer.batch == before
    settle(pacer, 10, 1)
    assert pacer.batch == before


def test_too_little_memory_halves_the_batch_for_good() -> None:
    pacer = Pacer(limit_ms=200, max_batch=64)
    settle(pacer, 10)
    assert pacer.shrink() and pacer.batch == 8
    settle(pacer, 1)
    assert pacer.batch == 8
    for _ in range(3):
        assert pacer.shrink()
    assert pacer.batch == 1 and not pacer.shrink()


def test_a_slice_that_failed_says_nothing() -> None:
    pacer = Pacer(limit_ms=200, max_batch=64)
    settle(pacer, 10)
    before = pacer.batch
    with pytest.raises(ZeroDivisionError), pacer as count:
        raise ZeroDivisionError(count)
    settle(pacer, 10, 1)
    assert pacer.batch == before
