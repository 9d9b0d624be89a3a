"""Up the ladder and down again on counts that replicas publish."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from online_draft.control.loop import ControlLoop
from online_draft.core import SpeculationCounts
from online_draft.registry.journal import Decision, DecisionJournal


def ticks(control: ControlLoop) -> list[str]:
    return [decision.kind for decision in control.tick()]


def test_a_good_version_climbs_through_canary_and_watch(house: Any) -> None:
    control, version = house.control(), house.propose()
    assert ticks(control) == ["canary"] and house.state.arms.share == 0.1
    assert ticks(control) == []
    house.serve(champion=2.0, second=2.4)
    assert ticks(control) == ["promote"]
    promotion = house.last
    assert promotion.numbers["gain"] == 0.2 and promotion.numbers["live"]["requests"] == [40, 360]
    assert promotion.numbers["live"]["gain"] == pytest.approx(0.2, abs=0.02)
    assert (house.state.champion, house.state.previous) == (version, "baseline") and house.state.watched
    house.serve(champion=2.4, second=2.0)
    assert ticks(control) == []
    house.later(660)
    assert ticks(control) == ["settle"] and house.last.numbers["live"]["requests"] == [360, 40]
    assert house.state.arms is None and house.state.previous == "baseline"
    assert house.kinds == ["propose", "canary", "promote", "settle"]


def test_a_version_that_disappoints_in_the_canary_is_refused_with_the_numbers(house: Any) -> None:
    control, version = house.control(), house.propose()
    control.tick()
    house.serve(champion=3.0, second=1.5)
    assert ticks(control) == ["refuse"]
    assert house.last.version == version and "worse than baseline live: τ 1.5" in house.last.reason
    assert house.last.numbers["live"]["tau"] == pytest.approx([1.5, 3.0], abs=0.1)
    assert house.state.champion == "baseline" and house.state.arms is None


def test_a_version_that_passed_and_disappoints_live_is_rolled_back_and_the_journal_says_why(
    house: Any,
) -> None:
    control, version = house.control(), house.propose()
    control.tick()
    house.later(90)
    assert ticks(control) == ["promote"] and "too little traffic" in house.last.reason
    house.serve(champion=1.4, second=2.8)
    assert ticks(control) == ["roll_back"]
    why = house.last
    assert (why.version, why.actor, why.numbers["from"]) == ("baseline", "control", version)
    assert f"{version} is worse than baseline live" in why.reason
    assert why.numbers["live"]["gain"] == pytest.approx(-0.5, abs=0.02)
    assert why.numbers["live"]["z"] < -why.numbers["live"]["z_bound"]
    assert house.state.champion == "baseline" and house.state.previous is None


def test_a_domain_shift_during_the_watch_is_drift_and_no_reason_to_roll_back(house: Any) -> None:
    control, version = house.control(), house.propose()
    control.tick()
    house.serve(champion=3.0, second=3.3)
    control.tick()
    house.serve(champion=3.3, second=3.0)
    control.tick()
    house.replay(champion=8, baseline=6, entropy=1.0)
    house.later(3)
    control.tick()
    assert control.alarms() == []
    house.serve(champion=1.3, second=1.3, requests=400, segment="poems")
    house.replay(champion=2, baseline=1, entropy=2.0)
    house.later(3)
    assert ticks(control) == [] and house.state.champion == version
    live = control.status()["arms"]["live"]
    assert live["requests"] == [1080, 120] and live["segments"] == 2 and live["gain"] > 0
    (alarm,) = control.alarms()
    assert (alarm.code, alarm.about) == ("drift", "poems") and "the traffic got harder" in alarm.message
    house.later(660)
    assert ticks(control) == ["settle"]


def test_the_smaller_arm_s_easier_traffic_is_not_taken_for_a_better_drafter(house: Any) -> None:
    control = house.control()
    house.propose()
    control.tick()
    house.later(90)
    control.tick()
    house.serve(champion=2.0, second=2.0, segment="hard")
    board, previous = house.boards[0], house.state.previous
    for number in range(200):
        steps = 20 + number % 5
        board.add("easy", previous, SpeculationCounts(steps=steps, committed=6 * steps), float("inf"))
    house.publish_counts()
    assert ticks(control) == [] and control.status()["arms"]["live"]["requests"] == [360, 40]


def test_a_segment_with_an_adapter_does_not_speak_against_a_canary(house: Any) -> None:
    control = house.control()
    house.decide("adapter_load", "a0001-1234abcd", segment="sql", base="baseline")
    house.propose()
    control.tick()
    house.serve(champion=3.0, second=1.5, segment="sql")
    assert ticks(control) == [] and control.status()["arms"]["live"]["segments"] == 0
    house.serve(champion=3.0, second=3.3)
    assert ticks(control) == ["promote"]


def test_the_next_candidate_waits_for_the_watch_and_shortens_it(house: Any) -> None:
    control = house.control()
    house.propose()
    control.tick()
    house.serve(2.0, 2.2)
    control.tick()
    second = house.propose(b"better still")
    assert ticks(control) == []
    house.later(60)
    assert ticks(control) == ["settle", "canary"] and house.state.canary == second


def test_a_pin_during_the_canary_stops_everything_and_unpinning_begins_it_anew(house: Any) -> None:
    control, version = house.control(), house.propose()
    control.tick()
    house.decide("pin", None)
    house.later(10_000)
    assert ticks(control) == [] and house.state.arms is None
    house.later(-10_000)
    house.decide("unpin", None)
    assert ticks(control) == ["canary"]
    assert house.state.canary == version and house.state.arms.seq == house.state.seq


def test_promoting_by_hand_during_a_canary_is_the_last_word(house: Any) -> None:
    control, version = house.control(), house.propose()
    control.tick()
    house.decide("promote", version, "cli")
    assert ticks(control) == [] and house.state.champion == version and house.state.arms is None
    other, third = house.publish(b"pushed"), house.propose(b"third")
    control.tick()
    house.decide("promote", other, "admin")
    assert ticks(control) == ["refuse"] and house.last.version == third


def test_a_canary_that_a_replica_can_not_load_is_refused(house: Any) -> None:
    control, version = house.control(), house.propose()
    control.tick()
    house.say("r1", "baseline", version)
    house.say("r2", "baseline", None, unusable={version: "weights are not finite"})
    assert ticks(control) == []
    house.later(90)
    house.say("r2", "baseline", None, unusable={version: "weights are not finite"})
    assert ticks(control) == ["refuse"]
    assert house.last.reason == "r2 can't draft with it: weights are not finite"


def test_while_counts_can_not_be_read_nothing_is_decided_about_arms(house: Any) -> None:
    control = house.control()
    house.propose()
    control.tick()
    house.redis.stop()
    house.later(100)
    assert ticks(control) == []
    assert [alarm.code for alarm in control.alarms()] == ["counts_unreadable"]
    house.redis.start()
    house.serve(2.0, 2.4)
    assert ticks(control) == ["promote"] and control.alarms() == []


def test_counts_that_redis_lost_come_back_from_the_replicas(house: Any) -> None:
    control = house.control()
    house.propose()
    control.tick()
    house.serve(2.0, 2.4)
    house.client.flushall()
    assert ticks(control) == []
    house.publish_counts()
    assert ticks(control) == ["promote"]


def test_a_stale_replica_raises_an_alarm_with_its_code_until_it_follows(house: Any) -> None:
    control = house.control()
    house.say("r1", "baseline")
    house.say("r2", "v0000-before")
    control.tick()
    assert control.status()["alarms"] == []
    house.later(60)
    house.say("r1", "baseline")
    house.say("r2", "v0000-before")
    control.tick()
    (alarm,) = control.status()["alarms"]
    assert (alarm["code"], alarm["about"]) == ("stale_version", "r2")
    assert alarm["message"] == "drafts with v0000-before, decided is baseline"
    assert control.status()["replicas"] == {"r1": ["baseline", None], "r2": ["v0000-before", None]}
    another = house.control()
    another.tick()
    assert another.status()["alarms"] == [alarm], "it needs no memory"
    house.say("r2", "baseline")
    control.tick()
    assert control.status()["alarms"] == []


Step = Callable[[Any], None]
SCRIPTS: dict[str, list[Step]] = {
    "up": [
        lambda house: house.propose(),
        lambda house: house.serve(2.0, 2.4),
        lambda house: house.serve(2.4, 2.0),
        lambda house: house.later(660),
    ],
    "up and down": [
        lambda house: house.propose(),
        lambda house: house.later(90),
        lambda house: house.serve(1.4, 2.8),
    ],
    "refused": [lambda house: house.propose(), lambda house: house.serve(3.0, 1.5)],
    "two candidates": [
        lambda house: house.propose(),
        lambda house: house.serve(2.0, 2.4),
        lambda house: house.propose(b"next"),
        lambda house: house.later(60),
        lambda house: house.serve(2.4, 2.8),
    ],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_control_may_die_between_any_two_decisions(script: str, new_house: Callable[..., Any]) -> None:
    steady, mortal = new_house(), new_house()
    control = steady.control()
    for step in SCRIPTS[script]:
        step(steady)
        control.tick()
    steady.client.flushall()
    for step in SCRIPTS[script]:
        step(mortal)
        for _ in range(3):
            mortal.control().tick()
            assert mortal.state.champion is not None
    assert mortal.kinds == steady.kinds
    assert [d.version for d in mortal.journal.read()] == [d.version for d in steady.journal.read()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_control_may_die_just_before_and_just_after_each_entry(
    script: str, new_house: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = DecisionJournal.append
    house, steady = new_house(), new_house()
    control = steady.control()
    for step in SCRIPTS[script]:
        step(steady)
        control.tick()
    steady.client.flushall()
    deaths: Counter[int] = Counter()

    class Killed(BaseException):
        pass

    def dying(journal: DecisionJournal, seq: int, decision: Decision) -> Decision:
        if decision.actor == "control" and deaths[seq] < 2:
            deaths[seq] += 1
            if deaths[seq] == 2:
                append(journal, seq, decision)
            raise Killed
        return append(journal, seq, decision)

    monkeypatch.setattr(DecisionJournal, "append", dying)
    for step in SCRIPTS[script]:
        step(house)
        for _ in range(6):
            try:
                house.control().tick()
            except Killed:
                continue
    assert house.kinds == steady.kinds
    by_control = [d for d in house.journal.read() if d.actor == "control"]
    assert sum(deaths.values()) == 2 * len(by_control) > 0


def test_controls_that_race_make_each_decision_once(house: Any) -> None:
    controls = [house.control() for _ in range(3)]

    def race() -> None:
        start = threading.Barrier(len(controls))

        def tick(control: ControlLoop) -> None:
            start.wait()
            for _ in range(3):
                control.tick()

        threads = [threading.Thread(target=tick, args=(control,)) for control in controls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for step in SCRIPTS["up and down"]:
        step(house)
        race()
    assert house.kinds == ["propose", "canary", "promote", "roll_back"]
    assert [control.status()["trouble"] for control in controls] == ["", "", ""]


def test_a_person_and_control_race_and_neither_decision_is_lost(house: Any) -> None:
    control, version = house.control(), house.propose()
    control.tick()
    house.serve(3.0, 1.5)
    append = DecisionJournal.append

    def hand_first() -> Iterator[None]:
        house.decide("promote", version, "admin")
        yield

    hands = hand_first()
    with pytest.MonkeyPatch.context() as patch:

        def late(journal: DecisionJournal, seq: int, decision: Decision) -> Decision:
            if decision.actor == "control":
                next(hands, None)
            return append(journal, seq, decision)

        patch.setattr(DecisionJournal, "append", late)
        assert ticks(control) == []
    assert house.state.champion == version and ticks(control) == []
    assert house.kinds == ["propose", "canary", "promote"]
