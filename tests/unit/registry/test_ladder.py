from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_draft.errors import ConfigError, JournalError
from online_draft.registry.arms import Arms
from online_draft.registry.journal import Decision, DecisionKind
from online_draft.registry.ladder import LADDER_KINDS, LadderState, apply, by_hand, fold
from online_draft.registry.resolution import Resolution, resolve_champion

VERSIONS = (None, "a", "b", "c")
RUNGS: tuple[DecisionKind, ...] = tuple(
    kind for kind in LADDER_KINDS if not kind.startswith(("adapter_", "speculation_"))
)
WATCH = {"control_share": 0.1}


def decision(
    kind: DecisionKind,
    version: str | None = None,
    actor: str = "control",
    seq: int = 1,
    numbers: Mapping[str, Any] | None = None,
) -> Decision:
    return Decision(seq, kind, version, actor, "because", numbers or {})


def after(*steps: tuple[Any, ...]) -> LadderState:
    made = [decision(*step) for step in steps]
    return fold(replace(entry, seq=number) for number, entry in enumerate(made, 1))


SERVING = (("promote", "base"), ("propose", "v1"))


def test_the_first_promotion_is_the_bootstrap_and_makes_the_baseline() -> None:
    state = after(("promote", "base", "launch"))
    assert (state.champion, state.previous, state.baseline, state.promoted) == ("base", None, "base", 0)


def test_a_candidate_is_promoted_and_the_champion_becomes_previous() -> None:
    state = after(*SERVING, ("promote", "v1"))
    assert (state.champion, state.previous, state.baseline, state.candidate) == ("v1", "base", "base", None)
    assert (state.proposed, state.promoted, state.seq) == (1, 1, 3)


def test_a_candidate_climbs_through_canary() -> None:
    state = after(*SERVING, ("canary", "v1"))
    assert (state.candidate, state.canary, state.champion) == (None, "v1", "base")
    state = after(*SERVING, ("canary", "v1"), ("promote", "v1"))
    assert (state.champion, state.canary) == ("v1", None)


def test_a_refused_candidate_and_a_refused_canary_leave_the_ladder() -> None:
    assert after(*SERVING, ("refuse", "v1")).candidate is None
    assert after(*SERVING, ("canary", "v1"), ("refuse", "v1")).canary is None


def test_a_version_that_failed_the_gate_unproposed_is_counted() -> None:
    state = after(*SERVING, ("refuse", "v9"))
    assert (state.refused, state.candidate) == (1, "v1")


def test_a_newer_candidate_supersedes_an_older_one() -> None:
    state = after(*SERVING, ("propose", "v2"))
    assert (state.candidate, state.proposed) == ("v2", 2)


def test_rolling_back_serves_previous_and_forgets_the_disappointment() -> None:
    state = after(*SERVING, ("promote", "v1"), ("roll_back", "base"))
    assert (state.champion, state.previous, state.rolled_back) == ("base", None, 1)


def test_only_by_hand_is_a_version_promoted_that_was_never_proposed() -> None:
    with pytest.raises(JournalError, match="neither candidate nor canary"):
        after(("promote", "base"), ("promote", "v5", "control"))
    assert after(("promote", "base"), ("promote", "v5", "admin:eve")).champion == "v5"


def test_pins_hold_everybody_until_unpinned() -> None:
    pinned = (*SERVING, ("promote", "v1"), ("propose", "v2"), ("pin", "v1", "cli"))
    for kind, version in (("promote", "v2"), ("canary", "v2"), ("roll_back", "base")):
        with pytest.raises(
            JournalError, match=f"v1 is pinned, {kind} is refused; only admin or cli can unpin"
        ):
            after(*pinned, (kind, version, "control"))
        with pytest.raises(JournalError, match=f"v1 is pinned, {kind} is refused; unpin it first"):
            after(*pinned, (kind, version, "cli"))
    assert after(*pinned, ("refuse", "v2"), ("propose", "v3")).candidate == "v3"
    assert after(*pinned, ("unpin", "v1"), ("promote", "v2")).champion == "v2"


def test_a_canary_has_the_share_that_its_decision_says_until_it_is_decided_about() -> None:
    canary = (*SERVING, ("canary", "v1", "control", 3, {"share": 0.25}))
    assert after(*canary).arms == Arms("canary", "v1", 0.25, seq=3, at_ms=0)
    assert after(*SERVING, ("canary", "v1")).arms == Arms("canary", "v1", 0.1, seq=3, at_ms=0)
    assert after(*canary, ("refuse", "v1")).arms is None
    assert after(*canary, ("promote", "v1")).arms is None
    assert after(*canary, ("propose", "v2")).arms is not None


def test_a_watch_lasts_until_it_is_settled_or_the_champion_changes() -> None:
    promoted = (*SERVING, ("promote", "v1", "control", 3, WATCH))
    state = after(*promoted)
    assert state.watched and state.arms == Arms("control", "base", 0.1, seq=3, at_ms=0)
    state = after(*promoted, ("settle", "v1"))
    assert (state.arms, state.previous, state.champion) == (None, "base", "v1")
    assert after(*promoted, ("roll_back", "base")).arms is None
    assert after(*promoted, ("promote", "v7", "admin")).arms is None
    assert after(*promoted, ("propose", "v2"), ("refuse", "v2")).watched
    with pytest.raises(JournalError, match="v1 is still watched"):
        after(*promoted, ("propose", "v2"), ("canary", "v2"))
    with pytest.raises(JournalError, match="v1 isn't a champion that is watched"):
        after(*promoted, ("settle", "v1"), ("settle", "v1"))


def test_a_journal_from_before_there_were_arms_has_none() -> None:
    state = after(*SERVING, ("promote", "v1"), ("propose", "v2"), ("promote", "v2"))
    assert (state.champion, state.previous, state.arms) == ("v2", "v1", None)


def test_a_pin_ends_watch_and_canary_and_keeps_the_canary_for_later() -> None:
    watched = (*SERVING, ("promote", "v1", "control", 3, WATCH), ("pin", "v1", "cli"))
    assert after(*watched).arms is None and after(*watched, ("unpin", "v1")).arms is None
    canary = (*SERVING, ("canary", "v1"), ("pin", "base", "cli"))
    state = after(*canary)
    assert (state.canary, state.candidate, state.arms) == (None, "v1", None)
    assert after(*canary, ("unpin", "base"), ("canary", "v1")).arms == Arms("canary", "v1", 0.1, 6, 0)


def test_a_canary_against_a_champion_that_went_drafts_for_nobody() -> None:
    state = after(*SERVING, ("canary", "v1"), ("promote", "v7", "admin"))
    assert (state.canary, state.arms) == ("v1", None)
    assert after(*SERVING, ("canary", "v1"), ("promote", "v7", "admin"), ("refuse", "v1")).canary is None


@pytest.mark.parametrize("share", [0, 1, -0.1, "0.1", True, float("nan")])
@pytest.mark.parametrize(("kind", "name"), [("canary", "share"), ("promote", "control_share")])
def test_a_share_out_of_range_is_refused(kind: DecisionKind, name: str, share: Any) -> None:
    with pytest.raises(JournalError, match=f"numbers.{name}: must be a number between 0 and 1"):
        after(*SERVING, (kind, "v1", "control", 3, {name: share}))


def test_the_learner_pauses_and_resumes() -> None:
    assert after(("pause",)).learner_paused
    assert not after(("pause",), ("resume",)).learner_paused


def test_speculation_is_switched_apart_from_all_else() -> None:
    served = after(("promote", "v1"))
    off = after(("promote", "v1"), ("speculation_off",))
    assert replace(off, speculation_off=False, seq=served.seq) == served and off.speculation_off
    assert not after(("speculation_off",), ("speculation_on",)).speculation_off


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ((("propose", None),), "propose needs a drafter version"),
        ((("promote", ""),), "promote needs a drafter version"),
        ((("promote", "base"), ("promote", "base")), "base is already champion"),
        ((("promote", "base"), ("propose", "base")), "base is already champion"),
        ((*SERVING, ("propose", "v1")), "v1 is already candidate"),
        ((*SERVING, ("canary", "v1"), ("propose", "v1")), "v1 is already canary"),
        (
            (*SERVING, ("canary", "v1"), ("propose", "v2"), ("canary", "v2")),
            "v1 is canary; promote or refuse",
        ),
        ((*SERVING, ("canary", "v2")), "v2 is not the candidate"),
        ((("propose", "v1"), ("canary", "v1")), "a canary needs a champion"),
        ((("promote", "base"), ("refuse", "base")), "base is champion and can't be refused"),
        ((*SERVING, ("promote", "v1"), ("refuse", "base")), "base is previous and can't be refused"),
        ((("promote", "base"), ("roll_back", "base")), "no previous version"),
        ((*SERVING, ("promote", "v1"), ("roll_back", "v7")), "previous, which is base, not v7"),
        ((*SERVING, ("pin", "v1")), "only the champion"),
        ((("promote", "base"), ("pin", "base"), ("pin", "base")), "base is pinned already"),
        ((("promote", "base"), ("unpin", "base")), "base is not pinned"),
        ((("pause",), ("pause",)), "already paused"),
        ((("resume",),), "not paused"),
        ((("pause", "v1"),), "pause takes no version"),
        ((("speculation_on",),), "on already"),
        ((("speculation_off",), ("speculation_off",)), "off already"),
        ((("speculation_off", "v1"),), "speculation_off takes no version"),
    ],
)
def test_illegal_history_is_an_error_that_names_the_entry(steps: tuple[Any, ...], text: str) -> None:
    with pytest.raises(JournalError, match=text) as caught:
        after(*steps)
    assert f"decision {len(steps)} ({steps[-1][0]}) is illegal" in str(caught.value)


def test_missing_and_reordered_entries_are_errors() -> None:
    with pytest.raises(JournalError, match="decision 2 follows 0"):
        fold([decision("pause", seq=2)])
    with pytest.raises(JournalError, match="decision 1 follows 1"):
        fold([decision("pause", seq=1), decision("resume", seq=1)])


def test_an_unknown_kind_is_refused_with_the_accepted_ones() -> None:
    with pytest.raises(ConfigError, match=r"kind: 'explode' is not one of propose, refuse"):
        apply(LadderState(), decision("explode"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("actor", "hand"),
    [
        ("admin", True),
        ("cli", True),
        ("cli:ann", True),
        ("control", False),
        ("administrator", False),
        ("", False),
    ],
)
def test_who_decides_by_hand(actor: str, hand: bool) -> None:
    assert by_hand(actor) is hand


def legal(state: LadderState, kind: str, version: str | None, actor: str) -> bool:
    """The table of ladder.py, written a second time."""
    free = state.pinned is None
    climbing = version is not None and version in (state.candidate, state.canary)
    return {
        "propose": version is not None and version not in (state.champion, state.candidate, state.canary),
        "refuse": version is not None and version not in (state.champion, state.previous, state.baseline),
        "canary": free
        and state.champion is not None
        and version is not None
        and version == state.candidate
        and state.canary is None
        and not state.watched,
        "promote": free
        and version is not None
        and version != state.champion
        and (state.champion is None or climbing or actor == "admin"),
        "settle": version is not None and state.watched and version == state.champion,
        "roll_back": free and version is not None and version == state.previous,
        "pin": free and version is not None and version == state.champion,
        "unpin": version is not None and version == state.pinned,
        "pause": version is None and not state.learner_paused,
        "resume": version is None and state.learner_paused,
    }[kind]


def moves(actors: tuple[str, ...]) -> list[Decision]:
    """All decisions over three versions; promotions with and without a watch."""
    return [
        decision(kind, version, actor, numbers=numbers)
        for kind, version, actor in product(RUNGS, VERSIONS, actors)
        for numbers in (({}, WATCH) if kind == "promote" else ({},))
    ]


def reachable(depth: int) -> set[LadderState]:
    """All states within `depth` decisions, counters left out."""
    seen = {LadderState()}
    edge = set(seen)
    for _ in range(depth):
        found = set()
        for state, move in product(edge, moves(("admin",))):
            if legal(state, move.kind, move.version, move.actor):
                now = apply(state, move)
                found.add(replace(now, seq=0, proposed=0, promoted=0, refused=0, rolled_back=0))
        edge = found - seen
        seen |= found
    return seen


def test_every_transition_from_every_reachable_state_follows_the_table() -> None:
    states = reachable(6)
    assert len(states) > 300 and any(state.watched for state in states)
    for state, move in product(states, moves(("admin", "control"))):
        try:
            now = apply(state, move)
        except ConfigError:
            assert not legal(state, move.kind, move.version, move.actor), (state, move)
            continue
        assert legal(state, move.kind, move.version, move.actor), (state, move)
        assert (now.champion is None) == (now.baseline is None)
        assert now.champion is not None or state.champion is None
        if now.champion != state.champion:
            assert move.kind in ("promote", "roll_back") and now.champion == move.version
        roles = [role for role in (now.champion, now.candidate, now.canary) if role is not None]
        assert len(roles) == len(set(roles))
        assert now.pinned in (None, now.champion)
        assert now.previous is None or now.previous != now.champion
        if now.arms is not None:
            assert now.arms.second == (now.previous if now.watched else now.canary)
            assert now.arms.second != now.champion and now.pinned is None
            assert now.champion == state.champion or move.kind == "promote"


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(RUNGS), st.sampled_from(VERSIONS)), max_size=30))
def test_folding_in_pieces_equals_folding_at_once(steps: list[tuple[DecisionKind, str | None]]) -> None:
    state, history = LadderState(), []
    for kind, version in steps:
        entry = decision(kind, version, "cli", seq=state.seq + 1, numbers=WATCH)
        try:
            state = apply(state, entry)
        except ConfigError:
            continue
        history.append(entry)
    assert fold(history) == state
    assert fold(history[7:], fold(history[:7])) == state


def test_versions_in_use_are_those_with_a_role() -> None:
    state = after(*SERVING, ("promote", "v1"), ("propose", "v2"), ("canary", "v2"), ("propose", "v3"))
    assert state.in_use == {"base", "v1", "v2", "v3"}


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (set(), Resolution("v2", "champion", False)),
        ({"v2"}, Resolution("v1", "previous", True)),
        ({"v2", "v1"}, Resolution("base", "baseline", True)),
        ({"v2", "v1", "base"}, Resolution(None, "none", True)),
    ],
)
def test_an_unreadable_champion_falls_back_with_an_alarm(broken: set[str], expected: Resolution) -> None:
    state = after(*SERVING, ("promote", "v1"), ("propose", "v2"), ("promote", "v2"))
    assert resolve_champion(state, lambda version: version not in broken) == expected


def test_an_empty_journal_means_no_drafter_and_no_alarm() -> None:
    assert resolve_champion(LadderState(), lambda version: True) == Resolution(None, "none", False)


def test_each_version_is_tried_once() -> None:
    asked: list[str] = []
    resolve_champion(after(("promote", "base")), lambda version: bool(asked.append(version)))
    assert asked == ["base"]
