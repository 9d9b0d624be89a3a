"""`bench shift` on a live system: bursts, twins, failures and decisions become the same tallies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from online_draft.bench.demo.traffic import Ask, Burst, Reply
from online_draft.bench.shift import ShiftOptions, live
from online_draft.bench.shift.live import LiveRun
from online_draft.models.artifact import save_drafter
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import decide, fold
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore

OPTIONS = ShiftOptions(
    order=("sql", "math"),
    kinds=("sharp",),
    requests_per_segment=6,
    window=2,
    burst=4,
    rate=1e6,
    check_every=3,
)
OUTPUT = tuple(range(40, 52))


class Bars:
    def __init__(self) -> None:
        self.updates: list[tuple[int, int]] = []

    def update(self, name: str, done: int, total: int, note: str = "") -> None:
        self.updates.append((done, total))


class System:
    """Stands for the child process, and for the client that talks to it."""

    def __init__(self, loaded: Any, directory: Path) -> None:
        self.loaded = loaded
        self.directory = directory
        self.bursts: list[tuple[int, bool]] = []
        self.interrupt_at: int | None = None
        self.ended = False

    def child(self, settings: Any) -> System:
        self.store = ArtifactStore(settings.artifacts)
        assert settings.engine.prefix_cache is False and settings.control.canary_requests == 8
        return self

    def client(self, url: str, model: str, key: str, concurrency: int) -> System:
        assert concurrency == 4
        return self

    def __enter__(self) -> SimpleNamespace:
        self.promote("start")
        return SimpleNamespace(url="http://127.0.0.1:1", model="m", admin_key="k")

    def __exit__(self, *error: object) -> None:
        self.ended = True

    async def __aenter__(self) -> System:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    def promote(self, name: str) -> None:
        fingerprint = self.loaded.fingerprint
        journal = DecisionJournal(self.store, fingerprint)
        version = DrafterRegistry(self.store, fingerprint).publish(self.directory, Provenance(), name=name)
        decide(journal, fold(journal.read()).seq, "promote", version, "admin", "for the test")

    async def burst(self, asks: Sequence[Ask], plain: bool = False) -> Burst:
        if len(self.bursts) == self.interrupt_at:
            raise KeyboardInterrupt
        self.bursts.append((len(asks), plain))
        if len(self.bursts) == 4:
            self.promote("next")
        return Burst(tuple(self.answer(ask, plain) for ask in asks), 0.5)

    def answer(self, ask: Ask, plain: bool) -> Reply:
        if ask.seed == 4:
            return Reply(ask, error="503: full")
        output = (*OUTPUT[:-1], 7) if plain and ask.seed == 8 else OUTPUT
        return Reply(ask, (1, 2, 3), output, 4, 12, "start", None, (3,) * 4, (4, 3), (3, 1))

    async def status(self) -> dict[str, Any]:
        return {"learner": {"slices": 9, "state": "waiting"}, "replica": {"kernel": "native"}}


@pytest.fixture
def system(traffic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    save_drafter(traffic.drafter(), tmp_path / "start", traffic.loaded.fingerprint)
    system = System(traffic.loaded, tmp_path / "start")
    monkeypatch.setattr(live, "ChildSystem", system.child)
    monkeypatch.setattr(live, "Client", system.client)
    return system


def test_bursts_become_tallies(system: System, traffic: Any, tmp_path: Path) -> None:
    run, bars = LiveRun(OPTIONS, traffic.loaded, tmp_path / "start", tmp_path), Bars()
    run.play(bars)  # type: ignore[arg-type]
    assert system.ended and run.requests == 12 and bars.updates[-1] == (12, 12)
    assert [size for size, plain in system.bursts if not plain] == [4, 2, 4, 2]
    assert [size for size, plain in system.bursts if plain] == [1, 1, 1, 1], "every third"
    assert run.failures == ["503: full"]
    assert [len(tally.served) for tally in run.tallies] == [5, 6]
    assert [twin.request.segment for twin in run.twins] == ["sql", "sql", "math", "math"]
    assert [twin.drafted == twin.plain for twin in run.twins] == [True, True, False, True]
    sql, math = (tally.as_json() for tally in run.tallies)
    assert (sql["tau_final"], math["segment"]) == (3.0, "math")
    assert sql["tau_static"] >= 1 and math["tau_final_replayed"] >= 1
    first, second = run.events
    assert (first.after, first.decision.version) == (0, "start")
    assert (second.decision.version, run.state.champion) == ("next", "next") and 0 < second.after <= 6
    assert (run.learner, run.kernel, run.serving_s) == ({"slices": 9}, "native", 2.0)


def test_an_interruption_leaves_what_there_is_and_ends_the_system(
    system: System, traffic: Any, tmp_path: Path
) -> None:
    system.interrupt_at = 5
    run = LiveRun(OPTIONS, traffic.loaded, tmp_path / "start", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.play(Bars())  # type: ignore[arg-type]
    assert system.ended and [len(tally.served) for tally in run.tallies] == [5, 0]
    assert run.tallies[0].as_json()["tau_static"] >= 1
