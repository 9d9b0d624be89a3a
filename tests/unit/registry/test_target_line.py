"""The line of a target's updates: who may write, what is found again, what is carried over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from online_draft.errors import ArtifactError, ConfigError, LostRaceError, StoreError
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.carry_over import carry_over
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.ladder import LadderState, apply, decide, fold
from online_draft.registry.manifest import Provenance
from online_draft.registry.target_line import (
    TargetLine,
    copy_path,
    fetch_copy,
    has_copy,
    origins,
    prune_copies,
    publish_copy,
)
from online_draft.store import ArtifactStore

OLD, NEW, NEWER = (f"llama-{letter * 16}-{'0' * 8}" for letter in "abc")


@pytest.fixture(params=["posix", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "posix":
        return ArtifactStore(tmp_path / "store")
    return ArtifactStore(f"memory://{tmp_path.name}")


@pytest.fixture
def publish(store: ArtifactStore, tmp_path: Path) -> Callable[[str, bytes], None]:
    def put(fingerprint: str, weights: bytes = b"weights") -> None:
        directory = tmp_path / fingerprint
        directory.mkdir(exist_ok=True)
        (directory / "model.safetensors").write_bytes(weights)
        (directory / "config.json").write_text("{}")
        publish_copy(store, fingerprint, sorted(directory.iterdir()), "somewhere")

    return put


@pytest.fixture
def drafter(tmp_path: Path) -> Path:
    """A drafter directory for the old target."""
    directory = tmp_path / "drafter"
    directory.mkdir()
    digest = hashlib.sha256(b"heads").hexdigest()
    manifest = {"schema": 1, "kind": "amphista", "config": {}, "target": OLD, "sha256": digest, "bytes": 5}
    (directory / "model.safetensors").write_bytes(b"heads")
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def test_an_empty_line_is_the_configured_target(store: ArtifactStore) -> None:
    line = TargetLine(store, OLD)
    assert line.current() == OLD and line.updates() == []


def test_updates_are_found_again_and_one_of_two_racing_writers_wins(
    store: ArtifactStore, publish: Callable[[str], None]
) -> None:
    publish(NEW)
    publish(NEWER)
    told: list[Decision] = []
    written = TargetLine(store, OLD).decide(0, NEW, "admin", "why", {"path": "x"}, told.append)
    assert told == [written] and (written.seq, written.kind, written.version) == (1, "retarget", NEW)
    other = TargetLine(store, OLD)
    assert other.current() == NEW
    with pytest.raises(LostRaceError):
        other.decide(0, NEWER, "admin", "late", {})
    other.decide(1, NEWER, "admin", "again", {})
    other.decide(2, OLD, "admin", "back", {})
    assert other.current() == OLD and [u.version for u in other.updates()] == [NEW, NEWER, OLD]


def test_only_what_is_published_and_isnt_served_already_can_be_decided(
    store: ArtifactStore, publish: Callable[[str], None]
) -> None:
    line = TargetLine(store, OLD)
    with pytest.raises(ConfigError, match="path: holds the weights that are served already"):
        line.decide(0, OLD, "admin", "", {})
    with pytest.raises(ArtifactError, match="not in"):
        line.decide(0, NEW, "admin", "", {})
    publish(NEW)

    def away(decision: Decision) -> None:
        raise StoreError("redis is away")

    assert line.decide(0, NEW, "admin", "", {}, away).seq == 1


def test_a_copy_that_was_cut_short_is_completed_and_a_short_file_is_told(
    store: ArtifactStore, publish: Callable[[str, bytes], None], tmp_path: Path
) -> None:
    store.write_bytes(f"{copy_path(NEW)}/model.safetensors", b"half")
    assert not has_copy(store, NEW)
    with pytest.raises(ArtifactError, match="not in"):
        fetch_copy(store, NEW, tmp_path / "cache")
    publish(NEW, b"all of it")
    directory = fetch_copy(store, NEW, tmp_path / "cache")
    assert (directory / "model.safetensors").read_bytes() == b"all of it"
    assert json.loads((directory / "target.json").read_bytes())["source"] == "somewhere"
    (directory / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ArtifactError, match="9 bytes"):
        fetch_copy(store, NEW, tmp_path / "cache")


def test_copies_of_the_last_two_updates_stay(store: ArtifactStore, publish: Callable[[str], None]) -> None:
    line = TargetLine(store, OLD)
    names = [f"llama-{number:016x}-{'0' * 8}" for number in range(4)]
    for seq, name in enumerate(names):
        publish(name)
        line.decide(seq, name, "admin", "", {})
        prune_copies(line)
    assert [has_copy(store, name) for name in names] == [False, False, True, True]
    publish(names[0])
    line.decide(4, names[0], "admin", "back", {})
    prune_copies(line)
    assert [has_copy(store, name) for name in names] == [True, False, False, True]


def test_a_store_with_one_line_has_one_origin(store: ArtifactStore, publish: Callable[[str], None]) -> None:
    assert origins(store) == []
    publish(NEW)
    TargetLine(store, OLD).decide(0, NEW, "admin", "", {})
    assert origins(store) == [OLD]
    TargetLine(store, OLD).decide(1, OLD, "admin", "", {})
    assert origins(store) == [OLD]
    publish(NEWER)
    assert origins(store) == [OLD, NEWER]


def test_the_champion_is_carried_over_once_and_unproven(store: ArtifactStore, drafter: Path) -> None:
    registry, journal = DrafterRegistry(store, OLD), DecisionJournal(store, OLD)
    assert carry_over(store, OLD, NEW) is None, "there is nothing yet"
    tenants = ("0123456789abcdef",)
    version = registry.publish(drafter, Provenance(tenants=tenants))
    decide(journal, 0, "promote", version, "bootstrap")
    carried = carry_over(store, OLD, NEW)
    assert carried is not None and carry_over(store, OLD, NEW) == carried
    fresh = DrafterRegistry(store, NEW)
    manifest = fresh.manifest(carried)
    assert fresh.list_versions() == [carried] and manifest.target == NEW
    assert (
        manifest.provenance.carried_over_from == f"{OLD}/{version}" and manifest.provenance.tenants == tenants
    )
    assert manifest.files["model.safetensors"] == registry.manifest(version).files["model.safetensors"]
    (decision,) = DecisionJournal(store, NEW).read()
    assert (decision.kind, decision.version) == ("promote", carried) and decision.numbers["unproven"] is True
    assert fold([decision]).champion == carried
    # The other way round each target keeps the champion that it has.
    assert carry_over(store, NEW, OLD) == version and len(journal.read()) == 1


def test_switches_stand_as_they_did(store: ArtifactStore, drafter: Path) -> None:
    old, new = DecisionJournal(store, OLD), DecisionJournal(store, NEW)
    version = DrafterRegistry(store, OLD).publish(drafter, Provenance())
    decide(old, 0, "promote", version, "bootstrap")
    decide(old, 1, "pause", actor="admin")
    decide(old, 2, "speculation_off", actor="admin")
    carry_over(store, OLD, NEW)
    state = fold(new.read())
    assert state.learner_paused and state.speculation_off and state.seq == 3
    decide(new, 3, "resume", actor="admin")
    carry_over(store, NEW, OLD)
    state = fold(old.read())
    assert not state.learner_paused and state.speculation_off and state.seq == 4


def test_what_an_interrupted_update_published_is_used(
    store: ArtifactStore, drafter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = DrafterRegistry(store, OLD).publish(drafter, Provenance())
    decide(DecisionJournal(store, OLD), 0, "promote", version, "bootstrap")

    def killed(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("online_draft.registry.carry_over.decide_with_retry", killed)
        with pytest.raises(KeyboardInterrupt):
            carry_over(store, OLD, NEW)
    carried = carry_over(store, OLD, NEW)
    assert DrafterRegistry(store, NEW).list_versions() == [carried]


def test_a_ladder_knows_nothing_of_targets() -> None:
    with pytest.raises(ConfigError, match="kind"):
        apply(LadderState(), Decision(1, "retarget", NEW, "admin", ""))
