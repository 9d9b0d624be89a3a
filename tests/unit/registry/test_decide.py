from __future__ import annotations

from pathlib import Path

import pytest

from online_draft.errors import ConfigError, LostRaceError, StoreError
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.ladder import Choice, LadderState, decide, decide_with_retry, fold
from online_draft.store import ArtifactStore


@pytest.fixture
def journal(tmp_path: Path) -> DecisionJournal:
    return DecisionJournal(ArtifactStore(tmp_path), "target")


def test_a_decision_is_checked_written_and_announced(journal: DecisionJournal) -> None:
    told: list[Decision] = []
    made = decide(
        journal,
        0,
        "promote",
        "base",
        "launch",
        "bootstrap",
        {"tau": 2.5},
        notify=told.append,
        now_ms=lambda: 7,
    )
    assert made == Decision(1, "promote", "base", "launch", "bootstrap", {"tau": 2.5}, 7)
    assert told == [made] == journal.read()


def test_an_illegal_decision_is_refused_and_not_written(journal: DecisionJournal) -> None:
    with pytest.raises(ConfigError, match="the learner is not paused"):
        decide(journal, 0, "resume", None, "admin")
    assert journal.read() == []


def test_a_decision_on_an_old_state_loses(journal: DecisionJournal) -> None:
    decide(journal, 0, "pause", None, "admin")
    with pytest.raises(LostRaceError, match="at 1, not 0"):
        decide(journal, 0, "promote", "base")


def test_versions_outside_the_registry_are_refused(journal: DecisionJournal) -> None:
    with pytest.raises(ConfigError, match="v9 is not in the registry; known: base"):
        decide(journal, 0, "promote", "v9", "cli", known=["base"])


def test_roll_back_pin_and_unpin_know_their_version(journal: DecisionJournal) -> None:
    decide(journal, 0, "promote", "base")
    with pytest.raises(ConfigError, match="nothing to roll back"):
        decide(journal, 1, "roll_back")
    decide(journal, 1, "promote", "v1", "cli")
    assert decide(journal, 2, "pin", None, "cli").version == "v1"
    assert decide(journal, 3, "unpin", None, "cli").version == "v1"
    assert decide(journal, 4, "roll_back", None, "cli").version == "base"


def test_a_lost_wakeup_does_not_undo_the_decision(
    journal: DecisionJournal, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(decision: Decision) -> None:
        raise StoreError("redis is away")

    assert decide(journal, 0, "pause", notify=fails).seq == 1
    assert "no wake-up for decision 1" in caplog.text


def test_after_a_lost_race_the_rule_is_asked_again(journal: DecisionJournal) -> None:
    states: list[LadderState] = []

    def rule(state: LadderState) -> Choice | None:
        states.append(state)
        if len(states) == 1:
            decide(journal, 0, "promote", "base")
        return Choice("promote", "other", "cli") if state.champion is None else Choice("pause")

    made = decide_with_retry(journal, rule)
    assert made is not None and (made.seq, made.kind) == (2, "pause")
    assert [state.champion for state in states] == [None, "base"]


def test_a_rule_may_have_nothing_to_decide(journal: DecisionJournal) -> None:
    assert decide_with_retry(journal, lambda state: None) is None


def test_a_rule_that_always_loses_gives_up(journal: DecisionJournal) -> None:
    def unlucky(state: LadderState) -> Choice:
        decide(journal, state.seq, "resume" if state.learner_paused else "pause", None, "admin")
        return Choice("promote", "base")

    with pytest.raises(LostRaceError):
        decide_with_retry(journal, unlucky, attempts=3)
    assert fold(journal.read()).seq == 3
