"""The doctor before a state directory: whole, damaged, empty."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from online_draft.buffer.erasures import ErasureLog
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.doctor.state import examine
from online_draft.learner.checkpoint import Checkpoint, CheckpointStore
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import Choice, decide_with_retry
from online_draft.registry.manifest import Provenance
from online_draft.serve.access.key_file import write_keys
from online_draft.settings import load_settings
from online_draft.store import ArtifactStore

TARGET = "llama-0123456789abcdef-01234567"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Two versions, three decisions, a checkpoint, no keys."""
    directory = tmp_path / "state"
    store = ArtifactStore(directory / "artifacts")
    registry, journal = DrafterRegistry(store, TARGET), DecisionJournal(store, TARGET)
    for name in ("base", "better"):
        made = tmp_path / name
        made.mkdir()
        digest = hashlib.sha256(name.encode()).hexdigest()
        (made / "manifest.json").write_text(
            json.dumps({"target": TARGET, "kind": "amphista", "sha256": digest})
        )
        (made / "model.safetensors").write_bytes(name.encode())
        registry.publish(made, Provenance(), name=name)
        decide_with_retry(journal, lambda _, name=name: Choice("promote", name, actor="admin"))  # type: ignore[misc]
    decide_with_retry(journal, lambda _: Choice("pause", actor="admin"))
    checkpoint = Checkpoint({"total": {"slices": 3}}, b"trainer", Reservoirs().to_bytes(), b"reader")
    CheckpointStore(store, TARGET).save(checkpoint)
    return directory


def look(state: Path) -> dict[str, tuple[str, str]]:
    return {
        found.name: (found.status, found.detail) for found in examine(load_settings({"state_dir": state}))
    }


def test_what_is_whole_is_said_with_its_numbers(state: Path) -> None:
    found = look(state)
    assert {status for status, _ in found.values()} == {"ok"}
    assert "3 decisions, the last at 20" in found["journal"][1] and "champion better" in found["journal"][1]
    assert found["versions"][1] == "2 in use, intact"
    assert found["checkpoint"][1] == "0 records of 0 segments, 3 slices"
    assert "records" not in found, "a private Redis keeps nothing"
    write_keys(state / "keys.json", ())
    assert look(state)["keys"][1].startswith("0 in ")
    ErasureLog(ArtifactStore(state / "artifacts")).request("somebody")
    assert "1 requests to erase are honoured at the start" in look(state)["checkpoint"][1]


@pytest.mark.parametrize(
    ("damage", "name", "status", "says"),
    [
        ("decisions/00000002.json", "journal", "fail", "00000002.json is missing"),
        ("drafters/better/model.safetensors", "versions", "fail", "the champion: "),
        ("drafters/base/version.json", "versions", "warn", "base is not in"),
    ],
)
def test_what_is_missing_is_named(state: Path, damage: str, name: str, status: str, says: str) -> None:
    (state / "artifacts" / "registry" / TARGET / damage).unlink()
    found = look(state)
    assert found[name][0] == status and says in found[name][1]


def test_a_target_update_without_its_copy_fails(state: Path) -> None:
    store = ArtifactStore(state / "artifacts")
    store.write_bytes(
        f"registry/{TARGET}/targets/00000001.json",
        json.dumps({"schema": 1, "seq": 1, "kind": "retarget", "version": "llama-2"}).encode(),
    )
    found = look(state)
    assert found["target"][0] == "fail" and "llama-2" in found["target"][1]


def test_damaged_checkpoints_and_keys_are_named(state: Path) -> None:
    folder = state / "artifacts" / "learner" / TARGET / "00000001"
    (folder / "reader.msgpack").write_bytes(b"other!")
    (state / "keys.json").write_text("{")
    found = look(state)
    assert found["checkpoint"][0] == "warn" and "corrupt" in found["checkpoint"][1]
    assert found["keys"][0] == "fail"
    (state / "keys.json").write_text('{"schema": 1, "keys": []}')
    (state / "keys.json").chmod(0o644)
    assert look(state)["keys"][0] == "warn"


def test_a_redis_that_is_away_fails_and_nothing_is_made(
    tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    away = f"unix://{tmp_path}/none.sock"
    state = tmp_path / "nowhere"
    found = list(examine(load_settings({"state_dir": state, "redis": {"url": away}})))
    assert [(one.name, one.status) for one in found] == [
        ("journal", "warn"),
        ("records", "fail"),
        ("keys", "ok"),
    ]
    assert not state.exists()
    assert run("doctor", "--state", "--state-dir", str(state)) == 0
    assert "journal" in capsys.readouterr().out
