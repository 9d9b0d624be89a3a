"""A replica follows requests to erase: what it forgets, in which order, and what it does when it can't."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from online_draft.buffer.erasures import ErasureLog
from online_draft.errors import EngineDead, StoreError
from online_draft.serve.erasing import ErasureWatcher
from online_draft.store import ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def test_requests_since_the_start_are_honoured_once_and_in_order(store: ArtifactStore) -> None:
    log, done = ErasureLog(store), list[tuple[str, str]]()
    log.request("before")
    watcher = ErasureWatcher(
        store, lambda tenant: done.append(("engine", tenant)), lambda tenant: done.append(("queue", tenant))
    )
    watcher.refresh()
    assert done == [] and watcher.status() == {"honoured": 1, "trouble": None}
    log.request("a")
    log.request("b")
    for _ in range(2):
        watcher.refresh()
    assert done == [("engine", "a"), ("queue", "a"), ("engine", "b"), ("queue", "b")]
    assert watcher.status()["honoured"] == 3


def test_a_request_that_began_before_leaves_no_record(store: ArtifactStore) -> None:
    watcher = ErasureWatcher(store)
    began = time.monotonic()
    assert not watcher.covers("a", began)
    ErasureLog(store).request("a")
    watcher.refresh()
    assert watcher.covers("a", began) and not watcher.covers("b", began)
    assert not watcher.covers("a", time.monotonic() + 0.001)


def test_what_failed_is_done_again_before_it_counts(store: ArtifactStore) -> None:
    done: list[str] = []

    def engine(tenant: str) -> None:
        done.append(tenant)
        if len(done) == 1:
            raise EngineDead("the engine is being replaced")

    watcher = ErasureWatcher(store, engine)
    ErasureLog(store).request("a")
    watcher.refresh()
    assert watcher.status() == {"honoured": 0, "trouble": "the engine is being replaced"}
    watcher.refresh()
    assert done == ["a", "a"] and watcher.status() == {"honoured": 1, "trouble": None}


def test_a_store_that_is_away_is_no_reason_to_stop(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    with monkeypatch.context() as patch:

        def away(_self: ErasureLog) -> list[int]:
            raise StoreError("can't list")

        patch.setattr(ErasureLog, "_numbers", away)
        watcher = ErasureWatcher(store, done.append)
        watcher.refresh()
        assert watcher.status() == {"honoured": 0, "trouble": "can't list"}
    ErasureLog(store).request("a")
    watcher.refresh()
    assert done == ["a"]


def test_the_thread_looks_by_itself_and_ends(store: ArtifactStore, until: Callable[..., Any]) -> None:
    done: list[str] = []
    watcher = ErasureWatcher(store, done.append, interval_s=0.01)
    watcher.start()
    ErasureLog(store).request("a")
    until(lambda: done, 10)
    watcher.stop()
    watcher.stop()
    assert not watcher._thread.is_alive()
