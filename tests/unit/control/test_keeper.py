from __future__ import annotations

import pytest

from online_draft.control.config import ControlConfig
from online_draft.control.keeper import LearnerKeeper


class Learner:
    def __init__(self) -> None:
        self.answer: str | Exception = "v1"
        self.pings = 0
        self.revived = 0
        self.now = 0.0

    def ping(self, timeout_s: float) -> str:
        self.pings += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def revive(self) -> None:
        self.revived += 1
        if self.revived == 1 and self.answer == "stubborn":
            raise RuntimeError("no room")
        self.answer = "v1"


@pytest.fixture
def learner() -> Learner:
    return Learner()


@pytest.fixture
def keeper(learner: Learner) -> LearnerKeeper:
    config = ControlConfig(ping_every_s=5, max_missed=3)
    return LearnerKeeper(config, "v1", learner.ping, learner.revive, lambda: learner.now)


def check(keeper: LearnerKeeper, learner: Learner, times: int = 1) -> None:
    for _ in range(times):
        keeper.check()
        learner.now += 5


def test_a_healthy_learner_is_pinged_now_and_then_and_left_alone(
    keeper: LearnerKeeper, learner: Learner
) -> None:
    for second in range(20):
        learner.now = float(second)
        keeper.check()
    assert (learner.pings, learner.revived) == (4, 0)
    assert keeper.status() == {"missed": 0, "revived": 0, "trouble": ""}


def test_silence_is_forgiven_twice(keeper: LearnerKeeper, learner: Learner) -> None:
    learner.answer = TimeoutError("late")
    check(keeper, learner, 2)
    assert learner.revived == 0 and keeper.status()["trouble"] == "no answer: late"
    learner.answer = "v1"
    check(keeper, learner)
    learner.answer = TimeoutError("late")
    check(keeper, learner, 2)
    assert learner.revived == 0
    check(keeper, learner)
    assert learner.revived == 1


@pytest.mark.parametrize("answer", ["", "v0"])
def test_one_that_ended_or_runs_other_code_is_replaced_at_once(
    keeper: LearnerKeeper, learner: Learner, answer: str
) -> None:
    learner.answer = answer
    check(keeper, learner, 2)
    assert learner.revived == 1
    assert keeper.status() == {"missed": 0, "revived": 1, "trouble": ""}


def test_a_failed_revival_is_tried_again(keeper: LearnerKeeper, learner: Learner) -> None:
    learner.answer = "stubborn"
    check(keeper, learner)
    assert keeper.status()["trouble"] == "could not be started: no room"
    check(keeper, learner, 2)
    assert learner.revived == 2 and learner.answer == "v1"


def test_newer_code_on_disk_is_no_reason_to_replace_it_over_and_over(
    keeper: LearnerKeeper, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner.answer = "v2"
    monkeypatch.setattr(keeper, "_revive", lambda: setattr(learner, "revived", learner.revived + 1))
    check(keeper, learner, 5)
    assert learner.revived == 1
    assert keeper.status()["trouble"] == "other code: it runs v2, control runs v1"
