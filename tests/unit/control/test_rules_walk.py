"""Whatever happens, what control wants is legal, comes to an end, and leaves one champion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from online_draft.control.comparison import Comparison
from online_draft.control.config import ControlConfig
from online_draft.control.rules import Facts, choose
from online_draft.errors import ConfigError
from online_draft.registry.journal import Decision, DecisionKind
from online_draft.registry.ladder import LadderState, apply, fold

COMPARISONS = (
    None,
    Comparison(),
    Comparison(100, 900, 3.3, 3.0, 0.1, 10.0, 0.01, 1),
    Comparison(100, 900, 1.5, 3.0, -0.5, -20.0, 0.025, 2),
    Comparison(40, 400, 2.9, 3.0, -0.03, -1.0, 0.03, 1),
)
HANDS: tuple[tuple[DecisionKind, str | None], ...] = (
    ("promote", "pushed"), ("promote", None), ("refuse", None),
    ("roll_back", None), ("pin", None), ("unpin", None),
)  # fmt: skip
CONFIGS = (
    ControlConfig(),
    ControlConfig(canary_share=0),
    ControlConfig(watch_share=0),
    ControlConfig(canary_timeout="refuse"),
)


class Walk:
    """A journal in memory, a clock, and a control that forgets everything between two looks."""

    def __init__(self, config: ControlConfig) -> None:
        self.config = config
        self.journal: list[Decision] = []
        self.state = LadderState()
        self.now_ms = 1_000
        self.decide("promote", "base", "bootstrap")

    def decide(self, kind: DecisionKind, version: str | None, actor: str, **numbers: Any) -> bool:
        entry = Decision(self.state.seq + 1, kind, version, actor, "", numbers, self.now_ms)
        try:
            self.state = apply(self.state, entry)
        except ConfigError:
            assert actor != "control", (self.state, entry)
            return False
        self.journal.append(entry)
        return True

    def by_hand(self, kind: DecisionKind, version: str | None) -> None:
        state = self.state
        implied = {"roll_back": state.previous, "pin": state.champion, "unpin": state.pinned}
        self.decide(kind, version or implied.get(kind) or state.canary or state.candidate or "x", "admin")

    def look(self, comparison: Comparison | None, unusable: str) -> None:
        for _ in range(6):
            climbing = self.state.canary or self.state.candidate
            proposals = [e for e in self.journal if (e.kind, e.version) == ("propose", climbing)]
            gate = proposals[-1].numbers if proposals else {}
            facts = Facts(self.now_ms, ("", gate), "", comparison, unusable)
            choice = choose(self.state, facts, self.config)
            if choice is None:
                return
            self.decide(choice.kind, choice.version, choice.actor, **choice.numbers)
        raise AssertionError(f"control goes round in circles: {self.journal[-6:]}")


EVENT = st.one_of(
    st.tuples(st.just("propose"), st.booleans()),
    st.tuples(st.just("hand"), st.sampled_from(HANDS)),
    st.tuples(st.just("later"), st.sampled_from((0, 10, 31, 61, 601))),
    st.tuples(st.just("look"), st.tuples(st.sampled_from(COMPARISONS), st.sampled_from(("", "corrupt")))),
)


@settings(max_examples=300)
@given(st.sampled_from(CONFIGS), st.lists(EVENT, max_size=25))
def test_every_walk_is_legal_and_ends(config: ControlConfig, events: list[tuple[str, Any]]) -> None:
    walk = Walk(config)
    for number, (event, given_) in enumerate(events):
        if event == "propose":
            walk.decide("propose", f"v{number}", "learner", parent=walk.state.champion if given_ else "old")
        elif event == "hand":
            walk.by_hand(*given_)
        elif event == "later":
            walk.now_ms += given_ * 1000
        else:
            walk.look(*given_)
        state = walk.state
        assert state.champion is not None and state.champion not in (state.previous, state.canary)
        assert state.arms is None or state.arms.second in (state.previous, state.canary)
    assert fold(walk.journal) == walk.state


@settings(max_examples=100)
@given(st.sampled_from(CONFIGS), st.lists(st.sampled_from(COMPARISONS[1:]), min_size=30, max_size=30))
def test_a_proposal_is_decided_about_within_bounded_time(
    config: ControlConfig, comparisons: list[Comparison]
) -> None:
    walk = Walk(replace(config, canary_max_s=45, watch_s=600))
    walk.decide("propose", "v1", "learner", parent="base")
    for comparison in comparisons:
        walk.look(comparison, "")
        walk.now_ms += 45_000
    assert walk.state.candidate is None and walk.state.canary is None and walk.state.arms is None
    assert walk.journal[-1].kind in ("refuse", "settle", "roll_back", "promote")
