"""A pushed drafter is a version that serves nobody, and only of the target that it was made for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from online_draft.errors import ArtifactError, ConfigError
from online_draft.launch.admin import open_desk
from online_draft.launch.processes import start_ticks
from online_draft.launch.pushing import push_drafter
from online_draft.launch.run_file import RunFile
from online_draft.models.artifact import build_drafter, save_drafter
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.manifest import Provenance
from online_draft.settings import Settings, load_settings
from online_draft.store import ArtifactStore

TARGET = "llama-0123456789abcdef-01234567"
OTHER = "llama-fedcba9876543210-01234567"
ORIGIN = {"records": {"train": 95, "held_out": 5}, "steps": 70, "tokens": 1234, "git_revision": "abc"}


def drafter(where: Path, target: str = TARGET, seed: int = 0, **origin: object) -> Path:
    torch.manual_seed(seed)
    made = build_drafter("medusa", {"hidden_size": 4, "vocab_size": 9, "num_heads": 2})
    save_drafter(made, where, target, {**ORIGIN, **origin})
    (where / "README.md").write_text("# Heads\n")
    (where / "evaluation.json").write_text("{}\n")
    return where


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings({"state_dir": str(tmp_path / "state")})


def run_file(settings: Settings, fingerprint: str) -> None:
    """This process runs as if it were a system of that target."""
    pid = os.getpid()
    RunFile(
        pid=pid, host="127.0.0.1", port=1, model="m", target="some-target", fingerprint=fingerprint,
        admin_key="k", redis_url="r", state_dir=str(settings.state_dir), temp_dir="", helpers={},
        started={str(pid): start_ticks(pid) or -1},
    ).write()  # fmt: skip


def test_a_pushed_drafter_is_a_version_and_nothing_is_decided(settings: Settings, tmp_path: Path) -> None:
    pushed = push_drafter(settings, drafter(tmp_path / "one"))
    assert pushed.version.startswith("v0001-") and (pushed.fresh, pushed.running) == (True, False)
    desk = open_desk(settings, TARGET)
    assert desk.journal.read() == []
    manifest = desk.registry.verify(pushed.version)
    assert set(manifest.files) == {"manifest.json", "model.safetensors", "evaluation.json", "README.md"}
    assert (manifest.provenance.records, manifest.provenance.git_revision) == (95, "abc")
    assert manifest.provenance.counts == {"steps": 70, "tokens": 1234}
    desk.registry.fetch(pushed.version, tmp_path / "back")
    assert (tmp_path / "back" / "README.md").read_text() == "# Heads\n"


def test_only_by_hand_is_it_promoted_over_a_champion(settings: Settings, tmp_path: Path) -> None:
    desk = open_desk(settings, TARGET)
    first = push_drafter(settings, drafter(tmp_path / "one"))
    desk.decide("promote", first.version, "bootstrap", "")
    second = push_drafter(settings, drafter(tmp_path / "two", seed=1))
    assert desk.state().champion == first.version and desk.state().candidate is None
    with pytest.raises(ConfigError, match="neither candidate nor canary"):
        desk.decide("promote", second.version, "control", "")
    desk.decide("promote", second.version, "cli", "")
    assert desk.state().champion == second.version


def test_the_same_weights_are_one_version_unless_named(settings: Settings, tmp_path: Path) -> None:
    first = push_drafter(settings, drafter(tmp_path / "one"))
    again = push_drafter(settings, drafter(tmp_path / "again", steps=71))
    assert (again.version, again.fresh) == (first.version, False)
    assert push_drafter(settings, tmp_path / "one", "mine").version == "mine"
    other = push_drafter(settings, drafter(tmp_path / "other", seed=1))
    assert other.version.startswith("v0002-") and other.fresh


def test_a_drafter_of_another_target_than_the_running_one_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    run_file(settings, TARGET)
    with pytest.raises(ArtifactError, match=f"for target {OTHER}, but some-target runs, which is {TARGET}"):
        push_drafter(settings, drafter(tmp_path / "other", OTHER))
    assert ArtifactStore(settings.artifacts).list("registry") == []
    assert push_drafter(settings, drafter(tmp_path / "one")).running


def test_a_drafter_of_a_target_that_the_store_does_not_know_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    registry = DrafterRegistry(ArtifactStore(settings.artifacts), TARGET)
    registry.publish(drafter(tmp_path / "one"), Provenance())
    with pytest.raises(ArtifactError, match=f"for target {OTHER}; .* knows {TARGET}"):
        push_drafter(settings, drafter(tmp_path / "other", OTHER))


@pytest.mark.parametrize("damage", ["missing", "corrupt", "not finite"])
def test_a_damaged_drafter_is_refused(damage: str, settings: Settings, tmp_path: Path) -> None:
    directory = tmp_path / "bad"
    weights = drafter(directory) / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "corrupt":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    else:
        made = build_drafter("medusa", {"hidden_size": 4, "vocab_size": 9, "num_heads": 2})
        with torch.no_grad():
            made.get_parameter("bias_KF")[0, 0] = float("nan")
        save_drafter(made, directory, TARGET)
    with pytest.raises(ArtifactError, match=damage):
        push_drafter(settings, directory)
    assert ArtifactStore(settings.artifacts).list("registry") == []
