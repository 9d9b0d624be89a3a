"""Following the journal: what runs, what doesn't, and why."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from online_draft.errors import ArtifactError, ConfigError
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal, DecisionKind
from online_draft.registry.ladder import Choice, decide_with_retry
from online_draft.registry.manifest import Provenance
from online_draft.serve.lineup import Lineup
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
        self.beside: list[tuple[str | None, float, str | None]] = []
        self.loaded: list[str] = []
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

    def promote(self, name: str, **numbers: float) -> None:
        self.publish(name)
        self.decide("promote", name, **numbers)

    def canary(self, name: str, **numbers: float) -> None:
        self.publish(name)
        self.decide("propose", name)
        self.decide("canary", name, **numbers)

    def decide(self, kind: DecisionKind, name: str | None, **numbers: float) -> None:
        decide_with_retry(self.journal, lambda _: Choice(kind, name, actor="admin", numbers=numbers))

    def corrupt(self, name: str) -> None:
        path = self.root / "store" / "registry" / TARGET / "drafters" / name / "model.safetensors"
        path.write_bytes(b"x" * len(name))

    def _load(self, directory: Path) -> str:
        name = (directory / "model.safetensors").read_text()
        if name in self.unfit:
            raise ArtifactError("weights are not finite")
        self.loaded.append(name)
        return name

    def _install(self, lineup: Lineup[str]) -> None:
        if "too-wide" in (lineup.drafter, lineup.second):
            raise ConfigError("engine.feature_window", "must be larger")
        assert (lineup.drafter, lineup.second) == (lineup.version, lineup.second_version)
        self.installed.append(lineup.version)
        self.beside.append((lineup.second_version, lineup.share, lineup.arms))


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


def test_a_canary_drafts_beside_the_champion_on_the_share_of_its_decision(bench: Bench) -> None:
    bench.promote("one")
    bench.watcher.refresh()
    bench.canary("two", share=0.2)
    bench.watcher.refresh()
    bench.watcher.refresh()
    assert bench.installed == ["one", "one"] and bench.beside[-1] == ("two", 0.2, "3-two")
    status = bench.watcher.status()
    assert (status["drafter_version"], status["second_version"], status["second_share"]) == (
        "one",
        "two",
        0.2,
    )
    bench.decide("refuse", "two")
    bench.watcher.refresh()
    assert bench.installed[-1] == "one" and bench.beside[-1] == (None, 0.0, None)


def test_every_replica_makes_the_same_arms_of_the_journal(bench: Bench, tmp_path: Path) -> None:
    bench.promote("one")
    bench.canary("two", share=0.2)
    other = Bench(tmp_path)
    for each in (bench, other):
        each.watcher.refresh()
    assert other.beside == bench.beside == [("two", 0.2, "3-two")]


def test_up_through_canary_and_watch_and_down_again_each_version_is_loaded_once(bench: Bench) -> None:
    bench.promote("one")
    bench.watcher.refresh()
    bench.canary("two")
    bench.watcher.refresh()
    bench.decide("promote", "two", control_share=0.1)
    bench.watcher.refresh()
    assert bench.installed[-1] == "two" and bench.beside[-1] == ("one", 0.1, "4-one")
    (bench.root / "store" / "registry" / TARGET / "drafters").rename(bench.root / "gone")
    (bench.root / "cache").rename(bench.root / "gone too")
    bench.decide("roll_back", "one")
    bench.watcher.refresh()
    assert bench.installed[-1] == "one" and bench.beside[-1] == (None, 0.0, None)
    assert bench.loaded == ["one", "two"]


def test_a_settled_watch_leaves_the_champion_alone_and_previous_resident(bench: Bench) -> None:
    bench.promote("one")
    bench.promote("two", control_share=0.1)
    bench.watcher.refresh()
    bench.decide("settle", "two")
    bench.watcher.refresh()
    assert bench.installed == ["two", "two"] and bench.beside[-1] == (None, 0.0, None)
    bench.corrupt("one")
    bench.decide("roll_back", "one")
    bench.watcher.refresh()
    assert bench.installed[-1] == "one"


@pytest.mark.parametrize("damage", ["corrupt", "unfit", "uninstallable"])
def test_a_bad_canary_leaves_the_champion_alone_and_says_why(bench: Bench, damage: str) -> None:
    bench.promote("one")
    name = "too-wide" if damage == "uninstallable" else "two"
    if damage == "unfit":
        bench.unfit.add(name)
    bench.canary(name)
    if damage == "corrupt":
        bench.corrupt(name)
    bench.watcher.refresh()
    bench.watcher.refresh()
    assert bench.installed == ["one"] and bench.beside == [(None, 0.0, None)]
    status = bench.watcher.status()
    assert status["unusable"][name] and not status["alarm"] and status["second_version"] is None


def test_a_replica_that_lacks_the_champion_compares_nothing(bench: Bench) -> None:
    bench.promote("one")
    bench.promote("two")
    bench.corrupt("two")
    bench.canary("three")
    bench.watcher.refresh()
    assert bench.installed == ["one"] and bench.beside == [(None, 0.0, None)]


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


def test_a_new_version_is_fetched_at_a_random_moment_of_its_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = WeightWatcher(
        bench.journal, bench.registry, bench.root / "cache", bench._load, bench._install, fetch_spread_s=8.0
    )
    waits: list[float] = []
    monkeypatch.setattr(watcher._stop, "wait", waits.append)
    bench.promote("one")
    watcher.refresh()
    assert waits == [], "nothing is drafted meanwhile"
    for name in ("two", "three", "four"):
        bench.promote(name)
        watcher.refresh()
    assert len(set(waits)) == 3 and all(0 <= wait <= 8 for wait in waits)
    bench.decide("roll_back", "three")
    watcher.refresh()
    assert len(waits) == 3 and watcher.running.version == "three"
