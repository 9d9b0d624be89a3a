"""What control decides about candidate, canary and watch, given what it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from online_draft.control.comparison import Comparison
from online_draft.control.config import ControlConfig
from online_draft.control.rules import Facts, choose
from online_draft.errors import ConfigError
from online_draft.registry.arms import Arms
from online_draft.registry.ladder import Choice, LadderState

CONFIG = ControlConfig(canary_requests=30, canary_max_s=60, watch_s=600, watch_min_s=30)
GATE = {"gain": 0.2, "parent": "base"}
SERVING = LadderState(champion="base", baseline="base", seq=1)
CANDIDATE = replace(SERVING, candidate="v1")
CANARY = replace(SERVING, canary="v1", arms=Arms("canary", "v1", 0.1, 3, 1_000))
WATCH = replace(SERVING, champion="v1", previous="base", arms=Arms("control", "base", 0.1, 4, 1_000))


def live(gain: float, requests: tuple[int, int] = (100, 900), error: float = 0.01) -> Comparison:
    return Comparison(*requests, 3 * (1 + gain), 3.0, gain, gain / error, error, 1)


def chosen(state: LadderState, after_s: float = 10, config: ControlConfig = CONFIG, **facts: Any) -> Choice:
    choice = choose(state, Facts(1_000 + int(after_s * 1000), ("because", GATE), **facts), config)
    assert choice is not None
    return choice


def nothing(state: LadderState, after_s: float = 10, config: ControlConfig = CONFIG, **facts: Any) -> bool:
    return choose(state, Facts(1_000 + int(after_s * 1000), ("because", GATE), **facts), config) is None


def numbers_of(choice: Choice) -> Mapping[str, Any]:
    assert choice.actor == "control"
    return choice.numbers


def test_an_intact_candidate_becomes_canary_with_the_gate_s_numbers_and_its_share() -> None:
    choice = chosen(CANDIDATE)
    assert (choice.kind, choice.version, choice.reason) == ("canary", "v1", "because")
    assert numbers_of(choice) == {**GATE, "share": 0.1}


def test_without_a_canary_it_is_promoted_and_watched_without_a_watch_just_promoted() -> None:
    choice = chosen(CANDIDATE, config=replace(CONFIG, canary_share=0))
    assert choice.kind == "promote" and numbers_of(choice) == {**GATE, "control_share": 0.1}
    choice = chosen(CANDIDATE, config=replace(CONFIG, canary_share=0, watch_share=0))
    assert choice.kind == "promote" and numbers_of(choice) == GATE


def test_a_damaged_or_outdated_candidate_is_refused() -> None:
    assert chosen(CANDIDATE, flaw="corrupt") == Choice("refuse", "v1", "control", "corrupt", GATE)
    choice = chosen(replace(CANDIDATE, champion="v0"))
    assert (choice.kind, choice.reason) == ("refuse", "it was measured against base, but v0 serves")


def test_a_canary_that_held_is_promoted_with_the_live_numbers() -> None:
    choice = chosen(CANARY, comparison=live(0.1))
    assert (choice.kind, choice.version) == ("promote", "v1")
    assert choice.reason == "held against base live: τ 3.30 on 100 requests, 3.00 on 900"
    numbers = numbers_of(choice)
    assert numbers["gain"] == 0.2 and numbers["control_share"] == 0.1
    assert numbers["live"]["gain"] == 0.1 and numbers["live"]["requests"] == [100, 900]
    assert numbers["live"]["seconds"] == 10.0


def test_a_canary_that_is_worse_is_refused_at_once() -> None:
    choice = chosen(CANARY, after_s=1, comparison=live(-0.2, (12, 100), 0.04))
    assert choice.kind == "refuse" and choice.reason.startswith("worse than base live: τ 2.40 on 12 requests")
    assert numbers_of(choice)["live"]["z"] == -5.0


def test_a_canary_waits_for_its_requests() -> None:
    assert nothing(CANARY, comparison=live(0.1, (29, 400)))
    assert nothing(CANARY, comparison=live(-0.05, (40, 400), 0.05)), "behind, but perhaps by chance"
    assert nothing(CANARY, comparison=Comparison())


def test_a_canary_that_stays_behind_is_refused_in_the_end() -> None:
    choice = chosen(CANARY, after_s=61, comparison=live(-0.05, (40, 400), 0.05))
    assert choice.kind == "refuse" and "behind base live for 61 s" in choice.reason


@pytest.mark.parametrize("comparison", [Comparison(), live(-0.05, (20, 200), 0.05)])
def test_too_little_traffic_leaves_it_to_the_gate_or_not_as_configured(comparison: Comparison) -> None:
    assert nothing(CANARY, after_s=59, comparison=comparison)
    choice = chosen(CANARY, after_s=60, comparison=comparison)
    assert choice.kind == "promote" and "too little traffic in 60 s" in choice.reason
    assert numbers_of(choice)["control_share"] == 0.1, "the watch goes on looking"
    strict = replace(CONFIG, canary_timeout="refuse")
    assert chosen(CANARY, after_s=60, config=strict, comparison=comparison).kind == "refuse"


def test_a_canary_that_a_replica_can_not_use_is_refused_in_the_end_and_never_promoted() -> None:
    facts = {"unusable": "r1 can't draft with it: corrupt", "comparison": live(0.1)}
    assert nothing(CANARY, after_s=59, **facts)
    choice = chosen(CANARY, after_s=60, **facts)
    assert (choice.kind, choice.reason) == ("refuse", "r1 can't draft with it: corrupt")


def test_a_canary_whose_champion_went_is_refused() -> None:
    choice = chosen(replace(CANARY, champion="v9", arms=None))
    assert choice.kind == "refuse" and "v9" in choice.reason


def test_a_disappointing_champion_is_rolled_back_at_once_with_the_numbers() -> None:
    choice = chosen(WATCH, after_s=2, comparison=live(-0.3, (90, 10), 0.06))
    assert (choice.kind, choice.version) == ("roll_back", "base")
    assert choice.reason == "v1 is worse than base live: τ 2.10 on 90 requests, 3.00 on 10"
    numbers = numbers_of(choice)
    assert numbers["from"] == "v1" and numbers["live"]["z"] < -numbers["live"]["z_bound"]


def test_a_watched_champion_that_holds_is_settled_in_the_end() -> None:
    assert nothing(WATCH, after_s=599, comparison=live(0.0))
    choice = chosen(WATCH, after_s=600, comparison=live(0.0))
    assert (choice.kind, choice.version, choice.reason) == (
        "settle", "v1", "not found worse than base in 600 s",
    )  # fmt: skip


def test_the_next_candidate_shortens_the_watch_but_begins_no_canary_in_it() -> None:
    waiting = replace(WATCH, candidate="v2")
    facts = {"proposal": ("because", {"parent": "v1"}), "comparison": live(0.1)}
    assert choose(waiting, Facts(30_999, **facts), CONFIG) is None
    choice = choose(waiting, Facts(31_000, **facts), CONFIG)
    assert choice is not None and choice.kind == "settle" and "v2 waits" in choice.reason
    bad = choose(waiting, Facts(31_000, facts["proposal"], comparison=live(-0.3, (90, 10), 0.06)), CONFIG)
    assert bad is not None and bad.kind == "roll_back"


@pytest.mark.parametrize("state", [CANARY, WATCH])
def test_without_counts_nothing_is_decided_about_arms(state: LadderState) -> None:
    assert nothing(state, after_s=10_000, comparison=None)


@pytest.mark.parametrize("state", [CANDIDATE, replace(CANARY, arms=None), replace(WATCH, arms=None)])
def test_nothing_is_decided_over_a_pin(state: LadderState) -> None:
    assert nothing(
        replace(state, pinned=state.champion), after_s=10_000, comparison=live(-0.5), flaw="corrupt"
    )


def test_a_clock_that_went_back_ends_nothing() -> None:
    assert nothing(WATCH, after_s=-500, comparison=live(0.0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("canary_share", 0.6),
        ("watch_share", -0.1),
        ("canary_timeout", "maybe"),
        ("worse_alpha", 0),
        ("worse_by", 1),
        ("canary_max_s", 0),
        ("watch_min_s", 601),
        ("stale_after_s", -1),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"control\.{field}"):
        replace(CONFIG, **{field: value})
