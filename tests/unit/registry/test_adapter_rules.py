"""Adapters in the journal: bound to the champion, cleared with it, back with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from online_draft.errors import JournalError
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.ladder import LadderState, decide, fold
from online_draft.store import ArtifactStore

SERVING = (("promote", "v1"), ("propose", "v2"))


def after(*steps: tuple[Any, ...]) -> LadderState:
    """(kind, version, actor, numbers) each; `load` and `drop` below make them."""
    return fold(
        Decision(seq, step[0], step[1], *(step[2:3] or ("control",)), "because", *step[3:])
        for seq, step in enumerate(steps, 1)
    )


def load(adapter: str | None, segment: Any = "sql", base: str | None = "v1") -> tuple[Any, ...]:
    return ("adapter_load", adapter, "admin", {"segment": segment, "base": base, "gain": 0.1})


def drop(adapter: str | None, actor: str = "learner") -> tuple[Any, ...]:
    return ("adapter_drop", adapter, actor, {})


def test_an_adapter_is_loaded_replaced_and_dropped() -> None:
    state = after(*SERVING, load("a1"), load("a2", "python"))
    assert state.adapters == {"sql": "a1", "python": "a2"} and state.champion == "v1"
    state = after(*SERVING, load("a1"), load("a2", "python"), load("a3"))
    assert (
        state.adapters == {"sql": "a3", "python": "a2"} == {s: state.adapters[s] for s in ("sql", "python")}
    )
    state = after(*SERVING, load("a1"), load("a2", "python"), drop("a1"))
    assert state.adapters == {"python": "a2"} and state.waiting_adapters == {}


def test_nothing_else_of_the_ladder_is_touched() -> None:
    before = after(*SERVING)
    state = after(*SERVING, load("a1"), drop("a1"))
    assert replace(state, seq=before.seq) == before


def test_with_another_champion_all_wait_for_a_decision() -> None:
    loaded = (*SERVING, load("a1"), load("a2", "python"), ("promote", "v2"))
    state = after(*loaded)
    assert (state.adapters, state.waiting_adapters) == ({}, {"sql": "a1", "python": "a2"})
    state = after(*loaded, load("a3", "sql", "v2"), drop("a2"))
    assert (state.adapters, state.waiting_adapters) == ({"sql": "a3"}, {})
    assert state.adapters_in_use == {"a1", "a2", "a3"}


def test_a_rollback_brings_back_what_the_version_had() -> None:
    loaded = (*SERVING, load("a1"), load("a2", "python"), ("promote", "v2"))
    state = after(
        *loaded, load("a3", "sql", "v2"), load("a4", "story", "v2"), drop("a2"), ("roll_back", "v1")
    )
    assert state.adapters == {"sql": "a1", "python": "a2"}
    assert state.waiting_adapters == {"story": "a4"} and state.previous_adapters == {}
    state = after(*loaded, drop("a2", "cli"), ("roll_back", "v1"))
    assert state.adapters == {"sql": "a1"}, "what a person dropped stays away"


def test_promoting_the_previous_version_by_hand_brings_its_adapters_back_too() -> None:
    state = after(
        *SERVING, load("a1"), ("promote", "v2"), load("a2", "sql", "v2"), ("promote", "v1", "admin")
    )
    assert (state.adapters, state.previous_adapters) == ({"sql": "a1"}, {"sql": "a2"})


def test_refused_and_proposed_versions_change_nothing() -> None:
    state = after(*SERVING, load("a1"), ("refuse", "v2"), ("propose", "v3"), ("pin", "v1"), ("pause", None))
    assert state.adapters == {"sql": "a1"} and state.waiting_adapters == {}


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ((load("a1"),), "belongs to v1, but no version is champion"),
        ((*SERVING, load("a1", "sql", "v2")), "belongs to v2, but v1 is champion"),
        ((*SERVING, load("a1", "sql", None)), "belongs to None"),
        ((*SERVING, load("a1", "")), "numbers.segment: must name"),
        ((*SERVING, load("a1", 3)), "numbers.segment: must name"),
        ((*SERVING, load(None)), "adapter_load needs an adapter"),
        ((*SERVING, load("a1"), load("a1")), "a1 is loaded already"),
        ((*SERVING, drop("a1")), "a1 is not loaded; loaded are: none"),
        ((*SERVING, load("a1"), drop("a2")), "a2 is not loaded; loaded are: a1"),
        ((*SERVING, load("a1"), drop("a1"), drop("a1")), "a1 is not loaded"),
        ((*SERVING, load("a1"), ("promote", "v2"), load("a1", "sql")), "belongs to v1, but v2 is champion"),
    ],
)
def test_illegal_decisions_are_refused(steps: tuple[Any, ...], text: str) -> None:
    with pytest.raises(JournalError, match=text):
        after(*steps)


def test_an_old_journal_folds_as_it_did() -> None:
    state = after(*SERVING, ("promote", "v2"), ("roll_back", "v1"), ("pin", "v1"))
    assert (state.champion, state.previous, state.baseline, state.pinned) == ("v1", None, "v1", "v1")
    assert (state.proposed, state.promoted, state.rolled_back, state.seq) == (1, 1, 1, 5)
    assert state.adapters == state.previous_adapters == state.waiting_adapters == {}


def test_folding_in_pieces_equals_folding_at_once(tmp_path: Path) -> None:
    journal = DecisionJournal(ArtifactStore(tmp_path), "target")
    steps = (*SERVING, load("a1"), ("promote", "v2"), load("a2", "sql", "v2"), ("roll_back", "v1"))
    for seq, step in enumerate(steps):
        actor, numbers = (*step[2:], "admin", {})[:2] if len(step) > 2 else ("admin", {})
        decide(journal, seq, step[0], step[1], actor, "test", numbers)
    decisions = journal.read()
    assert decisions[2].numbers == {"segment": "sql", "base": "v1", "gain": 0.1}
    whole = fold(decisions)
    assert whole.adapters == {"sql": "a1"}
    for cut in range(len(decisions)):
        assert fold(decisions[cut:], fold(decisions[:cut])) == whole
    assert len({whole, fold(decisions)}) == 1, "states can be kept in sets"
