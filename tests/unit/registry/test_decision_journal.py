from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from online_draft.errors import JournalError, LostRaceError
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.store import ArtifactStore

ENTRY = Decision(0, "promote", "base", "launch", "bootstrap", {"tau": 2.5, "depths": [1, 2]}, 99)


@pytest.fixture(params=["path", "url"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path) if request.param == "path" else f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def journal(store: ArtifactStore) -> DecisionJournal:
    return DecisionJournal(store, "target")


def overwrite(store: ArtifactStore, number: int, content: bytes | dict[str, Any]) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    store.write_bytes(f"registry/target/decisions/{number:08d}.json", data)


def test_entries_come_back_as_written_and_in_order(store: ArtifactStore, journal: DecisionJournal) -> None:
    first = journal.append(0, ENTRY)
    second = journal.append(1, Decision(0, "pause", None, "cli", ""))
    assert (first.seq, second.seq) == (1, 2)
    assert DecisionJournal(store, "target").read() == [first, second]
    assert journal.read(after=1) == [second] and journal.read(after=2) == []
    assert store.list("registry/target/decisions") == ["00000001.json", "00000002.json"]


def test_a_taken_number_is_a_lost_race(journal: DecisionJournal) -> None:
    journal.append(0, ENTRY)
    with pytest.raises(LostRaceError, match="decision 1 was taken"):
        journal.append(0, ENTRY)
    assert len(journal.read()) == 1


def test_a_number_cannot_be_skipped(journal: DecisionJournal) -> None:
    with pytest.raises(JournalError, match=r"00000004\.json, which doesn't exist"):
        journal.append(4, ENTRY)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "torn or corrupt"),
        (b'{"seq": 1, "kind": "pro', "torn or corrupt"),
        (b"\xff\xfe", "torn or corrupt"),
        (b"[]", "not a decision"),
        ({"schema": 7, "seq": 1, "kind": "pause"}, "has schema 7"),
        ({"schema": 1, "seq": 2, "kind": "pause"}, r"seq \(must be 1\)"),
        ({"schema": 1, "seq": 1, "kind": "explode"}, r"kind \(one of propose"),
        ({"schema": 1, "seq": 1, "kind": "pause", "version": 3}, r"version \(text or null\)"),
        ({"schema": 1, "seq": 1, "kind": "pause", "numbers": []}, r"numbers \(mapping\)"),
        ({"schema": 1, "seq": True, "kind": "pause", "at_ms": "x"}, r"seq.*at_ms"),
    ],
)
def test_a_damaged_entry_is_an_error_that_names_its_file(
    store: ArtifactStore, journal: DecisionJournal, content: bytes | dict[str, Any], text: str
) -> None:
    overwrite(store, 1, content)
    with pytest.raises(JournalError, match=text) as caught:
        journal.read()
    assert "00000001.json" in str(caught.value)


def test_a_missing_and_a_vanished_entry_are_errors(store: ArtifactStore, journal: DecisionJournal) -> None:
    journal.append(0, ENTRY)
    journal.read()
    overwrite(store, 3, {"seq": 3, "kind": "pause"})
    with pytest.raises(JournalError, match=r"00000002\.json is missing"):
        journal.read()
    store.delete("registry/target/decisions")
    with pytest.raises(JournalError, match=r"00000001\.json was read before and is gone"):
        journal.read()


def test_an_entry_of_the_previous_schema_is_read(store: ArtifactStore, journal: DecisionJournal) -> None:
    overwrite(store, 1, {"seq": 1, "kind": "promote", "version": "base"})
    assert journal.read() == [Decision(1, "promote", "base", "", "")]


def test_work_in_progress_and_strangers_are_no_entries(tmp_path: Path) -> None:
    journal = DecisionJournal(ArtifactStore(tmp_path), "target")
    journal.append(0, ENTRY)
    folder = tmp_path / "registry/target/decisions"
    (folder / ".00000002.json.abc").write_text("{")
    (folder / "notes.txt").write_text("hello")
    assert [entry.seq for entry in journal.read()] == [1]


def test_a_poisoned_gate_can_still_be_written_down(journal: DecisionJournal) -> None:
    journal.append(
        0, Decision(0, "refuse", "v1", "learner", "not finite", {"tau": [float("nan"), float("inf")]})
    )
    assert journal.read()[0].numbers == {"tau": ["nan", "inf"]}
    with pytest.raises(JournalError, match="numbers"):
        journal.append(1, Decision(0, "pause", None, "cli", "", {"x": object()}))


def test_journals_of_two_targets_do_not_mix(store: ArtifactStore, journal: DecisionJournal) -> None:
    journal.append(0, ENTRY)
    assert DecisionJournal(store, "other").read() == []
