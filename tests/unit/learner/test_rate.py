from __future__ import annotations

import math

from online_draft.learner.config import RateConfig
from online_draft.learner.rate import LearningRate

CONFIG = RateConfig(boost=2.0, boost_updates=10, surprise=1.3, half_life=100, floor=0.25)


def learn(rate: LearningRate, loss: float, updates: int) -> None:
    for _ in range(updates):
        rate.note(loss)


def test_decays_when_quiet_down_to_a_floor() -> None:
    rate = LearningRate(CONFIG)
    assert rate.factor == 1
    learn(rate, 2.0, 100)
    assert math.isclose(rate.factor, 0.5)
    learn(rate, 2.0, 10_000)
    assert rate.factor == 0.25 and rate.alarms == 0


def test_an_alarm_makes_it_fast_for_a_while() -> None:
    rate = LearningRate(CONFIG)
    learn(rate, 2.0, 1000)
    rate.alarm()
    assert rate.factor == 2.0
    learn(rate, 2.0, 9)
    assert rate.factor == 2.0
    learn(rate, 2.0, 1)
    assert rate.factor == 1.0


def test_a_loss_that_rises_for_good_is_one_alarm_and_a_single_one_is_none() -> None:
    rate = LearningRate(CONFIG)
    learn(rate, 2.0, 200)
    rate.note(4.0)
    learn(rate, 2.0, 100)
    assert rate.alarms == 0
    learn(rate, 4.0, 100)
    assert rate.alarms == 1


def test_falling_and_broken_losses_are_no_surprise() -> None:
    rate = LearningRate(CONFIG)
    for step in range(500):
        rate.note(1 + 4 * 0.99**step)
    rate.note(math.nan)
    rate.note(math.inf)
    assert rate.alarms == 0


def test_a_loss_that_rises_because_the_student_went_back_is_no_surprise() -> None:
    rate = LearningRate(CONFIG)
    learn(rate, 2.0, 60)
    decayed = rate.factor
    rate.forget_losses()
    learn(rate, 4.0, 100)
    assert rate.alarms == 0 and rate.factor < decayed


def test_goes_on_as_it_was() -> None:
    rate, twin = LearningRate(CONFIG), LearningRate(CONFIG)
    learn(rate, 2.0, 60)
    rate.alarm()
    twin.restore(rate.as_dict())
    learn(rate, 2.0, 15)
    learn(twin, 2.0, 15)
    assert twin.factor == rate.factor and twin.as_dict() == rate.as_dict()
    twin.restore({})
    assert twin.factor == 1
