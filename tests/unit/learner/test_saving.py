from __future__ import annotations

import threading
from pathlib import Path

import pytest

from online_draft.errors import StoreError
from online_draft.learner.checkpoint import Checkpoint, CheckpointStore
from online_draft.learner.saving import Saver
from online_draft.store import ArtifactStore

CHECKPOINT = Checkpoint({"slices": 1}, b"trainer", b"reservoirs", b"reader")


def test_the_caller_does_not_wait_for_the_store(tmp_path: Path) -> None:
    store = CheckpointStore(ArtifactStore(tmp_path), "t")
    saver = Saver(store, every_s=0.0)
    go_on = threading.Event()

    def copied() -> Checkpoint:
        assert go_on.wait(10)
        return CHECKPOINT

    saver.unsaved = True
    assert saver.due()
    saver.begin(copied)
    assert saver.busy and saver.collect() is None and not saver.due()
    assert not saver.unsaved
    go_on.set()
    assert saver.collect(wait=True) == 1 and not saver.busy
    assert store.load()[0] == CHECKPOINT
    assert saver.collect() is None
    saver.close()


def test_what_could_not_be_written_stays_unsaved(tmp_path: Path) -> None:
    (tmp_path / "learner").write_text("in the way")
    saver = Saver(CheckpointStore(ArtifactStore(tmp_path), "t"), every_s=60.0)
    saver.begin(lambda: CHECKPOINT)
    with pytest.raises(StoreError):
        saver.collect(wait=True)
    assert saver.unsaved and not saver.busy
    assert not saver.due(), "not again at once"
    saver.close()
