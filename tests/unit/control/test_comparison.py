"""Two arms compared: what is found, how soon, and how often by mistake."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest

from online_draft.control.comparison import Comparison, compare
from online_draft.monitor.arms import ArmCounts

Arm = dict[str, ArmCounts]
SEGMENTS = {"chat": 1.8, "sql": 3.0, "code": 4.5}
"""Segments of the synthetic traffic and the τ that they have under equal drafters."""


def arm(tau: float, requests: int, segment: str = "chat", steps: int = 30, spread: float = 0.2) -> Arm:
    """Requests of one segment whose τ are spread around `tau`, the same above as below."""
    counts = ArmCounts()
    for number in range(requests):
        own = tau * (1 + spread * (1 if number % 2 else -1))
        counts.add(ArmCounts.of(steps, round(steps * own)))
    return {segment: counts}


def both(first: Arm, second: Arm) -> Arm:
    return {**first, **second}


def request(rng: random.Random, quality: float) -> tuple[str, int, int]:
    """Segment, steps and tokens of one request; lengths are geometric, difficulty is log-normal."""
    segment = rng.choices(list(SEGMENTS), (6, 3, 1))[0]
    tau = 1 + (SEGMENTS[segment] - 1) * quality * math.exp(rng.gauss(0, 0.3))
    tokens = min(400, 2 + math.floor(math.log(1 - rng.random()) / math.log(1 - 1 / 80)))
    mean = tokens / tau
    steps = round(rng.gauss(mean, math.sqrt(mean)))
    return segment, min(tokens, max(1, steps)), tokens


def stream(
    seed: int, requests: int, share: float, loss: float = 0.0, drift: float = 0.0
) -> Iterator[Comparison]:
    """The comparison after every few requests of a stream in which the first arm's gain is lower by `loss`.
    After a third of it both arms' gain falls by `drift`."""
    rng = random.Random(seed)
    ours: Arm = {}
    theirs: Arm = {}
    for number in range(requests):
        quality = 1 - drift * (number > requests // 3)
        second = rng.random() < share
        segment, steps, tokens = request(rng, quality if second else quality * (1 - loss))
        side = theirs if second else ours
        side.setdefault(segment, ArmCounts()).add(ArmCounts.of(steps, tokens))
        if number % 5 == 0:
            yield compare(ours, theirs)


def found_after(comparisons: Iterator[Comparison]) -> int | None:
    """At which look the first arm is found worse, with control's defaults."""
    return next((look for look, c in enumerate(comparisons) if c.worse(0.05, 0.01, 10)), None)


def test_counts_of_one_request_hold_its_squares() -> None:
    counts = ArmCounts.of(3, 7)
    counts.add(ArmCounts.of(2, 2))
    assert counts == ArmCounts(2, 5, 9, 9 + 4, 21 + 4, 49 + 4)


def test_the_difference_is_the_one_of_the_taus() -> None:
    found = compare(arm(2.0, 40), arm(4.0, 40))
    assert (found.our_tau, found.their_tau, found.gain) == (2.0, 4.0, -0.5)
    assert (found.our_requests, found.their_requests, found.segments) == (40, 40, 1)
    assert found.worse(0.05, 0.01, 10)
    assert not compare(arm(4.0, 40), arm(2.0, 40)).worse(0.05, 0.01, 10)


def test_equal_arms_have_no_gain() -> None:
    found = compare(arm(3.0, 40), arm(3.0, 4))
    assert found.gain == found.z == 0 and not found.worse(0.05, 0.01, 1)


def test_nothing_is_found_on_few_requests_or_for_a_small_loss() -> None:
    assert not compare(arm(1.0, 200), arm(4.0, 9)).worse(0.05, 0.01, 10)
    small = compare(arm(2.97, 4000, spread=0.05), arm(3.0, 4000, spread=0.05))
    assert small.worse(0.05, 0.005, 10) and not small.worse(0.05, 0.02, 10)


def test_no_spread_at_all_is_no_error() -> None:
    flat = compare(arm(1.0, 30, spread=0), arm(1.0, 30, spread=0))
    assert not flat.worse(0.05, 0.01, 10) and flat.bound(0.05) == math.inf
    assert compare(arm(1.0, 30, spread=0), arm(2.0, 30, spread=0)).worse(0.05, 0.01, 10)


def test_the_segments_weigh_alike_in_both_arms_whatever_each_got() -> None:
    ours = both(arm(2.0, 90, "hard"), arm(6.0, 10, "easy"))
    theirs = both(arm(2.0, 10, "hard"), arm(6.0, 90, "easy"))
    found = compare(ours, theirs)
    assert found.gain == 0 and found.our_tau == found.their_tau
    pooled_ours = sum(c.committed for c in ours.values()) / sum(c.steps for c in ours.values())
    pooled_theirs = sum(c.committed for c in theirs.values()) / sum(c.steps for c in theirs.values())
    assert pooled_ours < 0.5 * pooled_theirs, "τ over everything would have been fooled"


def test_segments_that_only_one_arm_had_say_nothing() -> None:
    found = compare(both(arm(2.0, 50, "chat"), arm(1.0, 500, "sql")), arm(2.0, 50, "chat"))
    assert (found.gain, found.segments, found.our_requests) == (0, 1, 50)
    apart = compare(arm(1.0, 500, "sql"), arm(6.0, 500, "chat"))
    assert apart == Comparison() and not apart.worse(0.05, 0.01, 1)
    assert compare({}, {}) == Comparison()


def test_many_segments_with_few_requests_each_count_together() -> None:
    ours = {f"s{n}": arm(1.5, 2)["chat"] for n in range(40)}
    theirs = {f"s{n}": arm(3.0, 1)["chat"] for n in range(40)}
    assert compare(ours, theirs).worse(0.05, 0.01, 10)


def test_the_bound_narrows_and_never_below_one_look_s() -> None:
    bounds = [Comparison(99, 99, 2, 2, 0, 0, error, 1).bound(0.05) for error in (1.0, 0.3, 0.1, 0.03)]
    assert bounds == sorted(bounds, reverse=True) and bounds[-1] > 2.44
    assert Comparison(99, 99, 2, 2, 0, 0, 0.03, 1).bound(0.01) > bounds[-1]


def test_numbers_are_plain_json() -> None:
    assert Comparison().as_numbers(0.05) == {
        "requests": [0, 0], "tau": [0.0, 0.0], "gain": 0.0, "z": 0.0, "z_bound": None, "segments": 0,
    }  # fmt: skip


@pytest.mark.parametrize(("share", "drift"), [(0.1, 0.0), (0.1, 0.6), (0.5, 0.0)])
def test_equal_arms_are_rarely_found_different_though_looked_at_all_the_time(
    share: float, drift: float
) -> None:
    runs = 120
    false = sum(found_after(stream(seed, 1200, share, drift=drift)) is not None for seed in range(runs))
    assert false <= 0.05 * runs


def test_a_bad_champion_is_found_soon() -> None:
    looks = [found_after(stream(seed, 1500, 0.1, loss=0.8)) for seed in range(30)]
    assert None not in looks
    requests = sorted(5 * look for look in looks if look is not None)
    assert requests[15] < 350 and requests[-1] < 1000
