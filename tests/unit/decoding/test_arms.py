"""Which arm a sequence is given, what arms hand on to those that follow, and who learns from which tree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from online_draft.core import GenerationRequest
from online_draft.decoding.drafting.arms import Arm, Arms, place
from online_draft.decoding.drafting.drafts import Drafts
from online_draft.decoding.drafting.forest import DraftedTrees
from online_draft.decoding.policy.calibration import Calibration
from online_draft.errors import ConfigError
from online_draft.models.drafter import Drafter


@pytest.fixture
def drafter(recall_drafter: Callable[..., Drafter]) -> Callable[[], Drafter]:
    """A new one with each call."""
    return lambda: recall_drafter([], 1.0, 0)


def change(arms: Arms, *drafters: Any, share: float = 0.5, salt: str | int = "") -> Arms:
    """`followed_by` with (drafter, version) pairs."""
    champion, second = (*drafters, (None, None))[:2]
    return arms.followed_by(*champion, *second, share, salt, lambda drafter: drafter.new_state(3))


def asked(name: str, session: str | None = None, tenant: str = "t") -> GenerationRequest:
    return GenerationRequest(name, (1,), session=session, tenant=tenant)


@pytest.mark.parametrize("sessions", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.5, 1.0])
def test_the_second_gets_its_share_of_all_sequences(
    drafter: Callable[[], Drafter], share: float, sessions: bool
) -> None:
    arms = change(Arms.none(), (drafter(), "v1"), (drafter(), "v2"), share=share, salt=7)
    count = 20_000
    names = [f"chatcmpl-{index:08x}-0-0" for index in range(count)]
    requests = [asked("r", name) if sessions else asked(name) for name in names]
    seconds = sum(arms.pick(request) is arms.second for request in requests)
    assert abs(seconds - share * count) <= 4 * math.sqrt(count * share * (1 - share))


def test_a_hash_decides_alike_everywhere_and_differently_with_another_salt() -> None:
    assert place("1", asked("cmpl-0")) == place(1, asked("cmpl-0")) == 0.6695602147427593
    requests = [asked(f"cmpl-{index}") for index in range(4000)]
    both = sum(place("1", request) < 0.5 and place("2", request) < 0.5 for request in requests)
    assert abs(both - 1000) <= 4 * math.sqrt(4000 * 0.25 * 0.75)
    assert place("1", asked("2x")) != place("12", asked("x"))


def test_the_requests_of_a_session_have_one_place() -> None:
    assert place(1, asked("a", "chat")) == place(1, asked("b", "chat"))
    assert len({place(1, asked("a", *who)) for who in (("x", "t"), ("x", "u"), ("y", "t"), (None, "t"))}) == 4


def test_a_drafter_that_stays_keeps_state_and_calibration_in_either_role(
    drafter: Callable[[], Drafter],
) -> None:
    one, two, three = drafter(), drafter(), drafter()
    alone = change(Arms.none(), (one, "v1"))
    canary = change(alone, (one, "v1"), (two, "v2"))
    assert canary.champion is alone.champion
    watch = change(canary, (two, "v2"), (one, "v1"), share=0.9)
    assert (watch.champion, watch.second) == (canary.second, canary.champion)
    renamed = change(watch, (two, "v2b"))
    assert renamed.champion is not watch.champion
    assert renamed.champion.state is watch.champion.state
    assert renamed.champion.calibration is watch.champion.calibration
    assert renamed.successor(watch.champion) is renamed.champion
    gone = change(renamed, (three, "v3"))
    assert gone.champion.state not in (watch.champion.state, canary.champion.state)
    assert gone.successor(renamed.champion) is gone.champion
    assert change(gone, (None, None)).drafters == []


def test_a_new_arm_inherits_from_the_champion_and_teaches_it_nothing(drafter: Callable[[], Drafter]) -> None:
    arms = change(Arms.none(), (drafter(), "v1"))
    before = arms.champion.calibration.table().copy()
    token, parent, depth = np.array([[5]]), np.array([[-1]]), np.array([[1]])
    for _ in range(500):
        arms.champion.calibration.observe(token, parent, depth, np.log([[0.3]]), [([5], [0])])
    arms.champion.calibration.report()
    learnt = arms.champion.calibration.table()[0].copy()
    both = change(arms, (arms.champion.drafter, "v1"), (drafter(), "v2"))
    assert both.second is not None
    inherited = both.second.calibration.table()[0]
    middle = int(0.3**0.5 * (len(learnt) - 1))
    assert before[0, middle] < inherited[middle] <= learnt[middle] + 1e-9
    assert both.second.calibration.report()["depths"] == {}
    for _ in range(500):
        both.second.calibration.observe(token, parent, depth, np.log([[0.3]]), [([6], [])])
    assert both.second.calibration.table()[0, middle] < 0.15
    np.testing.assert_array_equal(both.champion.calibration.table()[0], learnt)


def test_arms_that_can_not_be_compared_are_refused(drafter: Callable[[], Drafter]) -> None:
    one, two = drafter(), drafter()
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="share"):
            change(Arms.none(), (one, "v1"), (two, "v2"), share=share)
    for second in ((one, "v2"), (two, "v1")):
        with pytest.raises(ConfigError, match="second"):
            change(Arms.none(), (one, "v1"), second)
    with pytest.raises(ConfigError, match="champion"):
        change(Arms.none(), (None, None), (two, "v2"))


def trees(tokens: list[list[int]], noise: bool = False) -> DraftedTrees:
    """Chains with a probability of a half each."""
    count, nodes = len(tokens), len(tokens[0])
    depth_SN = np.tile(np.arange(1, nodes + 1), (count, 1))
    shared = (np.full((count, nodes), 0.25), np.ones(count, np.bool_)) if noise else ()
    return DraftedTrees(np.array(tokens), depth_SN - 2, depth_SN, depth_SN * math.log(0.5), *shared)


def test_trees_of_several_drafters_become_one_batch() -> None:
    small, large = trees([[1], [2]]), trees([[3, 4, 5]], noise=True)
    joined = DraftedTrees.joined([(small, [2, 0]), (large, [1])])
    assert joined.token_SN.tolist() == [[2, 0, 0], [3, 4, 5], [1, 0, 0]]
    assert joined.parent_SN.tolist() == [[-1, -1, -1], [-1, 0, 1], [-1, -1, -1]]
    assert np.isneginf(joined.logprob_SN[[0, 2], 1:]).all()
    assert joined.ranked_S is not None and joined.ranked_S.tolist() == [False, True, False]
    assert joined.share_SN is not None and joined.share_SN.sum() == 0.75
    again = joined.take([2, 0])
    assert again.token_SN[:, 0].tolist() == [1, 2] and np.isneginf(again.logprob_SN[:, 1:]).all()
    assert DraftedTrees.joined([(small, [0, 2]), (trees([[9]]), [1])]).ranked_S is None


def test_walks_are_told_to_the_arm_that_drafted() -> None:
    right, wrong = (Arm(version, None, None, Calibration(2)) for version in ("right", "wrong"))
    for _ in range(300):
        batch = Drafts(trees([[1, 2], [7, 8], [3, 4]]), [], [(right, [0, 2]), (wrong, [1])])
        batch.learn([([1, 2, 9], [0, 1]), ([5], []), ([3, 4, 9], [0, 1])])
    for arm, observed, steps in ((right, 1.0, 600), (wrong, 0.0, 300)):
        depth = arm.calibration.report()["depths"]["1"]
        assert (depth["observed"], depth["steps"]) == (observed, steps)
    half = int(0.5**0.5 * 512)
    assert right.calibration.table()[0, half] > 0.9 > 0.1 > wrong.calibration.table()[0, half]
