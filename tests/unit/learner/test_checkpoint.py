from __future__ import annotations

from pathlib import Path

import pytest

from online_draft.learner.checkpoint import Checkpoint, CheckpointStore
from online_draft.store import ArtifactStore

FIRST = Checkpoint({"slices": 1}, b"trainer", b"reservoirs", b"reader")
SECOND = Checkpoint({"slices": 2}, b"trainer 2", b"reservoirs 2", b"reader 2")


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(ArtifactStore(tmp_path), "target-1")


def test_the_newest_is_loaded_and_two_are_kept(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    assert checkpoints.load() == (None, [])
    for number in (1, 2, 3):
        assert checkpoints.save(SECOND if number == 3 else FIRST) == number
    assert checkpoints.load() == (SECOND, [])
    assert sorted(path.name for path in (tmp_path / "learner/target-1").iterdir()) == ["00000002", "00000003"]


@pytest.mark.parametrize("damage", [b"", b"traiNer 2", None])
def test_a_damaged_one_is_passed_over_with_its_reason(
    checkpoints: CheckpointStore, tmp_path: Path, damage: bytes | None
) -> None:
    checkpoints.save(FIRST)
    checkpoints.save(SECOND)
    file = tmp_path / "learner/target-1/00000002/trainer.safetensors"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    loaded, problems = checkpoints.load()
    assert loaded == FIRST
    assert len(problems) == 1 and problems[0].startswith("checkpoint 2: ")
    assert checkpoints.save(SECOND) == 3


def test_a_torn_one_is_invisible(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    checkpoints.save(FIRST)
    torn = tmp_path / "learner/target-1/.00000002.tmp"
    torn.mkdir()
    (torn / "trainer.safetensors").write_bytes(b"half")
    assert checkpoints.load() == (FIRST, [])


def test_targets_are_apart(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    CheckpointStore(store, "target-1").save(FIRST)
    assert CheckpointStore(store, "target-2").load() == (None, [])
