from __future__ import annotations

import pytest

from online_draft.learner.idle.timekeeping import FloorShare, StateTimes, niceness


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_all_time_is_in_some_state() -> None:
    clock = Clock()
    times = StateTimes("waiting", clock)
    for state, seconds in (("waiting", 1.0), ("training", 0.5), ("training", 0.25), ("yielding", 2.0)):
        times.enter(state)
        clock.now += seconds
    assert times.as_dict() == {"waiting": 1000, "training": 750, "yielding": 2000}
    clock.now += 1
    assert times.as_dict()["yielding"] == 3000


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_busy_service_leaves_the_floor_share(share: float) -> None:
    clock = Clock()
    floor = FloorShare(share, clock)
    worked = 0.0
    while clock.now < 200:
        if floor.due():
            floor.spend(0.2)
            worked += 0.2
            clock.now += 0.2
        else:
            clock.now += 0.025
    assert worked / clock.now == pytest.approx(share, rel=0.05)


def test_no_share_no_work_and_a_long_idle_time_earns_nothing() -> None:
    clock = Clock()
    none, some = FloorShare(0.0, clock), FloorShare(0.1, clock)
    assert not some.due()
    some.rest()
    clock.now += 1000
    assert not some.due() and not none.due()
    clock.now += 1000
    assert some.due() and not none.due()
    some.spend(0.2)
    assert not some.due(), "a long silence is worth little"


def test_the_share_decides_the_niceness() -> None:
    assert niceness(0.0) is None
    assert niceness(0.5) == 0
    assert niceness(0.001) == 19
    for share in (0.02, 0.1, 0.3):
        nice = niceness(share)
        assert nice is not None
        weight = 1.25**-nice
        assert share <= weight / (1 + weight) < 1.3 * share
