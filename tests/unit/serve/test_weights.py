"""Following the journal: what runs, what doesn't, and why."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from online_draft.errors import ArtifactError, ConfigError
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import Choice, decide_with_retry
from online_draft.registry.manifest import Provenance
from online_draft.serve.weights import WeightWatcher
from online_draft.store import ArtifactStore

TARGET = "llama-0000000000000000-00000000"


class Bench:
    """A registry, a journal and a watcher whose drafters are the names in their weight files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        store = ArtifactStore(root / "store")
        self.registry = DrafterRegistry(store, TARGET)
        self.journal = DecisionJournal(store, TARGET)
        self.installed: list[str | None] = []
        self.unfit: set[str] = set()
        self.watcher: WeightWatcher[str] = WeightWatcher(
            self.journal, self.registry, root / "cache", self._load, self._install
        )

    def publish(self, name: str) -> None:
        directory = self.root / "made" / name
        directory.mkdir(parents=True)
        weights = name.encode()
        manifest = {"target": TARGET, "kind": "amphista", "sha256": hashlib.sha256(weights).hexdigest()}
        (directory / "manifest.json").write_text(json.dumps(manifest))
        (directory / "model.safetensors").write_bytes(weights)
        self.registry.publish(directory, Provenance(), name=name)

    def promote(self, name: str) -> None:
        self.publish(name)
        decide_with_retry(self.journal, lambda _state: Choice("promote", name, actor="admin"))

    def corrupt(self, name: str) -> None:
        path = self.root / "store" / "registry" / TARGET / "drafters" / name / "model.safetensors"
        path.write_bytes(b"x" * len(name))

    def _load(self, directory: Path) -> str:
        name = (directory / "model.safetensors").read_text()
        if name in self.unfit:
            raise ArtifactError("weights are not finite")
        return name

    def _install(self, drafter: str | None, version: str | None) -> None:
        if drafter == "too-wide":
            raise ConfigError("engine.feature_window", "must be larger")
        assert drafter == version
        self.installed.append(version)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_champion_is_fetched_and_installed_once(bench: Bench) -> None:
    bench.promote("one")
    assert not bench.watcher.ready.is_set()
    bench.watcher.refresh()
    bench.watcher.refresh()
    assert bench.installed == ["one"] and bench.watcher.ready.is_set()
    bench.promote("two")
    bench.watcher.refresh()
    status = bench.watcher.status()
    assert bench.installed == ["one", "two"]
    assert status["drafter_version"] == "two" and not status["alarm"] and status["swaps"] == 2


def test_an_empty_journal_serves_without_drafter(bench: Bench) -> None:
    bench.watcher.refresh()
    assert bench.installed == [None] and bench.watcher.ready.is_set()
    assert not bench.watcher.status()["alarm"]


@pytest.mark.parametrize("damage", ["corrupt", "unfit", "missing", "uninstallable"])
def test_a_bad_version_leaves_the_running_one_in_place(bench: Bench, damage: str) -> None:
    bench.promote("one")
    bench.watcher.refresh()
    name = "too-wide" if damage == "uninstallable" else "two"
    if damage == "unfit":
        bench.unfit.add(name)
    bench.promote(name)
    if damage == "corrupt":
        bench.corrupt(name)
    if damage == "missing":
        bench.registry.store.delete(f"registry/{TARGET}/drafters/{name}")
    bench.watcher.refresh()
    status = bench.watcher.status()
    assert bench.installed == ["one"] and status["drafter_version"] == "one"
    assert status["decided_version"] == name and status["unusable"][name]
    bench.promote("three")
    bench.watcher.refresh()
    assert bench.watcher.status()["drafter_version"] == "three" and not bench.watcher.status()["alarm"]


def test_a_fresh_replica_falls_back_to_the_previous_version(bench: Bench) -> None:
    bench.promote("one")
    bench.promote("two")
    bench.corrupt("two")
    bench.watcher.refresh()
    status = bench.watcher.status()
    assert bench.installed == ["one"] and status["rung"] == "previous" and status["alarm"]


def test_nothing_readable_serves_without_drafter_and_alarms(bench: Bench) -> None:
    bench.promote("one")
    bench.corrupt("one")
    bench.watcher.refresh()
    assert bench.installed == [None] and bench.watcher.status()["alarm"] and bench.watcher.ready.is_set()


def test_a_rollback_needs_no_file(bench: Bench) -> None:
    bench.promote("one")
    bench.watcher.refresh()
    bench.promote("two")
    bench.watcher.refresh()
    bench.corrupt("one")
    decide_with_retry(bench.journal, lambda state: Choice("roll_back", state.previous, actor="control"))
    bench.watcher.refresh()
    assert bench.installed == ["one", "two", "one"]


def test_an_unreadable_journal_changes_nothing(bench: Bench) -> None:
    bench.promote("one")
    bench.watcher.refresh()
    (bench.root / "store" / "registry" / TARGET / "decisions" / "00000002.json").write_text("{")
    bench.watcher.refresh()
    status = bench.watcher.status()
    assert status["drafter_version"] == "one" and "00000002" in status["journal_error"]


def test_the_thread_follows_and_ends(bench: Bench) -> None:
    bench.promote("one")
    bench.watcher.start()
    assert bench.watcher.ready.wait(10)
    bench.watcher.stop()
    assert bench.installed == ["one"]
