"""Alarms about learner and books, and the learner's history, over a real Redis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from online_draft.buffer.books import Books
from online_draft.control.config import ControlConfig
from online_draft.control.vitals import EVERY_MS, Vitals
from online_draft.monitor.learner_history import RESOLUTIONS, LearnerReading, read_learner_history
from online_draft.store import RedisKeys
from online_draft.store.packing import pack

KEYS = RedisKeys("vital")
CONFIG = ControlConfig(stalled_after_s=600, lag_records=100)
START_MS = 1_000_000_200


class Ward:
    """A learner and a writer that say of themselves what a test wants, and a clock."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.now_ms = START_MS
        self.vitals = self.new()

    def new(self) -> Vitals:
        return Vitals(self.client, KEYS, CONFIG)

    def learner(self, **status: Any) -> None:
        given = {"state": "training", "reason": "", "steps": 1, "looks": 0, "feed": {"lag": 0}, **status}
        self.client.set(KEYS.status("learner"), pack(given))

    def later(self, seconds: float) -> list[tuple[str, str]]:
        """Go on by so much; the alarms then."""
        self.now_ms += int(1000 * seconds)
        self.vitals.tick(self.now_ms)
        return [(alarm.code, alarm.about) for alarm in self.vitals.alarms]


@pytest.fixture
def ward(client: Any) -> Ward:
    return Ward(client)


STALLED = [("learner_stalled", "learner")]


def test_a_learner_that_gets_on_with_nothing_is_stalled_until_it_does(ward: Ward) -> None:
    ward.learner(steps=7, state="yielding", reason="replica-1 is busy")
    assert ward.later(0) == [] and ward.later(600) == []
    assert ward.later(10) == STALLED
    (alarm,) = ward.vitals.alarms
    assert alarm.since_ms == START_MS and "for 10 min, yielding: replica-1 is busy" in alarm.message
    ward.learner(steps=8, state="yielding")
    assert ward.later(10) == [] and ward.later(590) == []
    ward.learner(steps=8, looks=1)
    assert ward.later(20) == []


@pytest.mark.parametrize("state", ["waiting", "paused"])
def test_a_learner_that_has_nothing_to_do_is_not(ward: Ward, state: str) -> None:
    ward.learner(state=state)
    assert ward.later(0) == [] and ward.later(5_000) == []
    ward.learner(state="training")
    assert ward.later(590) == []


def test_one_that_fails_again_and_again_is_stalled(ward: Ward) -> None:
    ward.learner(state="waiting", reason="failed: no room")
    assert ward.later(0) == [] and ward.later(601) == STALLED
    ward.learner(state="evaluating", drift_samples=1)
    assert ward.later(5) == []


def test_one_that_is_gone_is_its_keepers_task(ward: Ward) -> None:
    ward.learner()
    assert ward.later(0) == []
    ward.client.delete(KEYS.status("learner"))
    assert ward.later(5_000) == []


def test_a_control_that_was_started_anew_knows_since_when(ward: Ward) -> None:
    ward.learner()
    assert ward.later(0) == [] and ward.later(500) == []
    ward.vitals = ward.new()
    assert ward.later(110) == STALLED
    assert ward.vitals.alarms[0].since_ms == START_MS


def test_records_that_wait_and_records_that_are_nowhere(ward: Ward) -> None:
    ward.learner(feed={"lag": 101})
    ward.client.hset(KEYS.books, "w1", Books(produced=5, stored=3, spooled=2).pack())
    assert ward.later(0) == [("buffer_lag", "learner")]
    assert ward.vitals.alarms[0].message == "101 records wait to be read"
    ward.learner(steps=2, feed={"lag": 100})
    ward.client.hset(KEYS.books, "w2", Books(produced=5, stored=3).pack())
    assert ward.later(5) == [("books_unbalanced", "books")]
    assert "produced 10, but stored 6, spooled 2" in ward.vitals.alarms[0].message
    ward.client.hset(KEYS.books, "w2", Books(produced=5, stored=3, erased=2).pack())
    assert ward.later(5) == []


def test_it_looks_now_and_then_and_remembers_while_redis_is_away(ward: Ward, redis_server: Any) -> None:
    ward.learner(feed={"lag": 101})
    assert len(ward.later(0)) == 1
    ward.learner(steps=2)
    assert len(ward.later(EVERY_MS / 1000 - 1)) == 1, "too early"
    redis_server.stop()
    assert len(ward.later(5)) == 1
    redis_server.start()
    assert ward.later(6) == []


def test_the_learners_history_is_one_reading_a_bucket_and_bounded(ward: Ward, client: Any) -> None:
    now_s = START_MS // 1000
    look = {"tau_candidate": 2.5, "tau_champion": 2.25, "passed": True}
    for step in range(4):
        ward.learner(
            steps=step, tokens=10 * step, loss=1.5, last_look=look, state_ms={"training": 5_000 * step}
        )
        ward.later(5)
    ward.vitals = ward.new()  # another control writes nothing twice
    ward.later(5)
    fine = read_learner_history(client, KEYS, now_s, now_s + 1_000, 10)
    assert [one.steps for one in fine] == [0, 1, 3]
    assert fine[1] == LearnerReading(now_s + 10, "training", {"training": 5_000}, 1, 10, 0, 1.5, 2.5, 2.25)
    assert read_learner_history(client, KEYS, now_s + 10, now_s + 20, 10) == fine[1:2]
    coarse = read_learner_history(client, KEYS, now_s - 600, now_s + 600, 600)
    assert [replace(one, at_s=0) for one in coarse] == [replace(fine[0], at_s=0)]
    ward.learner(steps=9)
    most = RESOLUTIONS[600]
    for number in range(most + 300):
        client.xadd(KEYS.learner_history(600), {"d": b"x"}, id=f"{START_MS + 600_000 * (number + 1)}-0")
    ward.later(600 * (most + 400))
    assert client.xlen(KEYS.learner_history(600)) <= most + 200
    assert read_learner_history(client, KEYS, now_s, now_s + 600 * most, 600) == []
