"""One rung after the other, without arms; with them see test_ladder_climb."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from online_draft.control.config import ControlConfig, ControlPlace
from online_draft.control.loop import ControlLoop
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal, DecisionKind
from online_draft.registry.ladder import LadderState, decide, fold
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore

TARGET = "llama-0123456789abcdef-01234567"
NUMBERS = {"gain": 0.2, "parent": "baseline"}


class House:
    """A registry with a baseline and a control loop whose Redis is away."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = ArtifactStore(directory / "store")
        self.registry = DrafterRegistry(self.store, TARGET)
        self.journal = DecisionJournal(self.store, TARGET)
        self.registry.publish(self.files(b"base"), Provenance(), name="baseline")
        self.decide("promote", "baseline", "bootstrap")
        self.control = self.new_control()

    def new_control(self, **changes: Any) -> ControlLoop:
        place = ControlPlace(TARGET, str(self.directory / "store"), f"unix://{self.directory}/none.sock")
        return ControlLoop(place, ControlConfig(canary_share=0, watch_share=0, **changes))

    def files(self, weights: bytes) -> Path:
        directory = self.directory / hashlib.sha256(weights).hexdigest()
        directory.mkdir()
        digest = hashlib.sha256(weights).hexdigest()
        (directory / "model.safetensors").write_bytes(weights)
        (directory / "manifest.json").write_text(
            json.dumps({"schema": 1, "kind": "amphista", "target": TARGET, "sha256": digest})
        )
        return directory

    def decide(
        self, kind: DecisionKind, version: str | None, actor: str = "learner", **numbers: Any
    ) -> Decision:
        return decide(self.journal, self.state.seq, kind, version, actor, "because", numbers)

    def propose(self, weights: bytes = b"better", parent: str = "baseline") -> str:
        version = self.registry.publish(self.files(weights), Provenance(parent))
        self.decide("propose", version, gain=0.2, parent=parent)
        return version

    @property
    def state(self) -> LadderState:
        return fold(self.journal.read())


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_proposal_is_promoted_once_with_its_numbers(house: House) -> None:
    version = house.propose()
    (promotion,) = house.control.tick()
    assert (promotion.kind, promotion.version, promotion.actor) == ("promote", version, "control")
    assert promotion.numbers == NUMBERS
    assert house.control.tick() == []
    assert (house.state.champion, house.state.previous) == (version, "baseline")


def test_a_restarted_control_decides_nothing_twice(house: House) -> None:
    house.propose()
    house.control.tick()
    before = house.journal.read()
    assert house.new_control().tick() == []
    assert house.journal.read() == before


def test_a_control_that_was_away_catches_up(house: House) -> None:
    version = house.propose()
    assert [decision.version for decision in house.new_control().tick()] == [version]


def test_nothing_is_promoted_over_a_pin(house: House) -> None:
    house.decide("pin", None, "admin")
    version = house.propose()
    assert house.control.tick() == []
    assert house.state.champion == "baseline"
    house.decide("unpin", None, "admin")
    assert [decision.version for decision in house.control.tick()] == [version]


def test_a_proposal_measured_against_another_champion_is_refused(house: House) -> None:
    first = house.propose(b"first")
    house.control.tick()
    late = house.propose(b"late", parent="baseline")
    (refusal,) = house.control.tick()
    assert (refusal.kind, refusal.version) == ("refuse", late)
    assert refusal.reason == f"it was measured against baseline, but {first} serves"
    assert house.state.champion == first


def test_damaged_files_are_refused_with_the_reason(house: House, tmp_path: Path) -> None:
    version = house.propose()
    file = tmp_path / f"store/registry/{TARGET}/drafters/{version}/model.safetensors"
    file.write_bytes(b"bEtter")
    (refusal,) = house.control.tick()
    assert refusal.kind == "refuse" and "corrupt" in refusal.reason
    assert house.state.champion == "baseline"


def test_two_controls_promote_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    version = house.propose()
    other = house.new_control()
    append = DecisionJournal.append
    raced = []

    def lose_first(journal: DecisionJournal, seq: int, decision: Decision) -> Decision:
        if not raced:
            raced.append(decision)
            other.tick()
        return append(journal, seq, decision)

    monkeypatch.setattr(DecisionJournal, "append", lose_first)
    assert house.control.tick() == []
    assert [d.kind for d in house.journal.read() if d.version == version] == ["propose", "promote"]


def test_an_unreadable_store_decides_nothing_and_says_so(house: House, tmp_path: Path) -> None:
    house.propose()
    (tmp_path / "store").rename(tmp_path / "away")
    assert house.control.tick() == []
    assert "away" not in house.control.status()["trouble"] and house.control.status()["trouble"]
    (tmp_path / "away").rename(tmp_path / "store")
    assert len(house.control.tick()) == 1
    assert house.control.status()["trouble"] == ""


def test_old_versions_are_pruned_but_never_those_in_use(house: House) -> None:
    control = house.new_control(keep_versions=1)
    made = []
    for index in range(4):
        made.append(house.propose(b"%d" % index, parent=house.state.champion or ""))
        control.tick()
    assert house.registry.list_versions() == ["baseline", made[2], made[3]]
    assert (house.state.champion, house.state.previous) == (made[3], made[2])
