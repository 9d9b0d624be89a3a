"""When proposals of the n-gram memory are verified alone, and how much looking for them may cost."""

from __future__ import annotations

import random

import pytest

from online_draft.decoding.policy.cost import CostModel
from online_draft.decoding.policy.ngram_policy import NgramPolicy
from online_draft.decoding.policy.profile import StepProfile

PROFILE = StepProfile((1, 2, 4, 8, 16, 32), (1.0, 1.6, 2.0, 2.6, 4.0, 7.0), host_seconds=0.0)
MOST = 16


def chain(chance: float, nodes: int = MOST) -> list[float]:
    """What the best 0, 1, … nodes of a chain are worth."""
    worth = [0.0]
    for depth in range(1, nodes + 1):
        worth.append(worth[-1] + chance**depth)
    return worth


def choose(policy: NgramPolicy, chance: float, rate: float = 1.0, heads: bool = False) -> int:
    return policy.choose(chain(chance), MOST, 1, 0, rate, heads)


def test_a_sure_copy_is_verified_and_a_guess_is_not() -> None:
    policy = NgramPolicy(CostModel(PROFILE))
    assert choose(policy, 0.97) >= 8
    assert choose(policy, 0.5) == 0
    assert policy.choose([0.0], MOST, 1, 0, 1.0) == 0


def test_what_the_step_would_give_otherwise_counts() -> None:
    policy = NgramPolicy(CostModel(PROFILE))
    # A chain of eight and a root give 7.6 tokens in 2.7 seconds.
    assert choose(policy, 0.97, rate=2.3, heads=True) > 0
    assert choose(policy, 0.97, rate=3.2, heads=True) == 0


def test_prompt_rows_cost_what_they_would_cost_anyway() -> None:
    policy = NgramPolicy(CostModel(PROFILE))
    assert policy.choose(chain(0.9), MOST, 1, 14, 1.0) > 0


@pytest.mark.parametrize("kept", [1.0, 0.3])
def test_promises_that_are_not_kept_end_it_at_a_small_loss(kept: float) -> None:
    """Chains that say 0.9; what comes of them is as said, or nearly nothing."""
    rng = random.Random(1)
    policy = NgramPolicy(CostModel(PROFILE))
    cost = CostModel(PROFILE)
    seconds, tokens, verified = 0.0, 0, 0
    for _ in range(3000):
        rate = 1.0 / cost.plain(1)
        nodes = choose(policy, 0.9, rate)
        gained = 1
        if nodes:
            verified += 1
            while gained <= nodes and rng.random() < 0.9 * kept:
                gained += 1
            taken = float(cost.speculative(0, 1, nodes + 1)[nodes])
            policy.observe(taken, gained, True)
        else:
            taken = cost.plain(1)
            policy.passed(taken, 1)
        seconds += taken
        tokens += gained
    if kept == 1.0:
        assert verified == 3000
        assert tokens / seconds > 1.4
    else:
        assert verified < 150
        assert tokens / seconds > 0.97


def test_looks_that_find_nothing_take_half_a_percent_of_the_time() -> None:
    policy = NgramPolicy(CostModel(PROFILE))
    seconds = spent = 0.0
    for step in range(20_000):
        if policy.looks():
            policy.looked(1, 0.2)
            spent += 0.2 * (step > 1000)
        policy.passed(1.0, 1)
        seconds += step > 1000
    assert 0.004 < spent / seconds < 0.006


def test_gains_pay_for_looks_at_every_step() -> None:
    policy = NgramPolicy(CostModel(PROFILE))
    for _ in range(500):
        assert policy.looks() > 0
        policy.looked(1, 0.2)
        policy.passed(1.0, 1)
        assert choose(policy, 0.97) > 0
        policy.observe(3.0, 9, True)
    for _ in range(500):
        policy.looked(1, 0.2)
        policy.gained(1, 1)
    assert policy.looks() > 0


def test_the_slower_step_behind_is_part_of_the_price() -> None:
    cost = CostModel(PROFILE)
    policy = NgramPolicy(cost)
    nodes = choose(policy, 0.7)
    taken = float(cost.speculative(0, 1, nodes + 1)[nodes])
    assert nodes > 0
    for _ in range(100):
        policy.observe(taken, 3, True)
        policy.passed(1.9, 1)
    assert choose(policy, 0.7) == 0
    policy.observe(taken, 3, True)
    assert choose(policy, 0.7) > 0, "it has to be paid once, whatever follows"
