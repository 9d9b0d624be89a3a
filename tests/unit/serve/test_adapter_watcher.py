"""Adapters that were decided on come into a real engine, and a bad one leaves it alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.adapters.adapter import Adapter
from online_draft.models.artifact import load_drafter, save_drafter
from online_draft.registry.adapters import AdapterRegistry
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.ladder import LadderState
from online_draft.registry.manifest import Provenance
from online_draft.serve import adapters
from online_draft.serve.adapters import AdapterWatcher
from online_draft.serve.engine_thread import EngineThread
from online_draft.store import ArtifactStore


class Bench:
    """An engine on its thread that drafts with version v1, its registry and its watcher."""

    def __init__(
        self, root: Path, traffic: Any, make: Callable[..., Adapter], save: Callable[..., Path]
    ) -> None:
        self.root, self.traffic, self._make, self._save = root, traffic, make, save
        store = ArtifactStore(root / "store")
        self.fingerprint = traffic.loaded.fingerprint
        drafters = DrafterRegistry(store, self.fingerprint)
        self.bases: dict[str, Any] = {}
        for version, seed in (("v1", 0), ("v2", 1)):
            save_drafter(traffic.drafter(seed=seed), root / version, self.fingerprint)
            drafters.publish(root / version, Provenance(), name=version)
            self.bases[version] = load_drafter(root / version, traffic.loaded.target)
        self.registry = AdapterRegistry(store, self.fingerprint)
        self.thread: EngineThread[Engine] = EngineThread(self._build)
        self.thread.start(60)
        self.watcher = AdapterWatcher(self.registry, root / "cache", self.thread)

    def _build(self) -> Engine:
        sizes = EngineConfig(
            max_sequences=4, speculation="always", kernels="off", ngram=False, max_adapters=2
        )
        engine = Engine(self.traffic.loaded, sizes)
        engine.set_drafter(self.bases["v1"], "v1")
        return engine

    def publish(self, segment: str, seed: int = 0, base: str = "v1", rank: int = 3) -> str:
        adapter = self._make(self.bases[base], segment, rank, seed)
        directory = self._save(adapter, self.root / f"{segment}-{seed}-{base}", target=self.fingerprint)
        return self.registry.publish(directory, base, Provenance())

    def corrupt(self, adapter: str) -> None:
        path = f"registry/{self.fingerprint}/adapters/{adapter}/adapter_model.safetensors"
        self.registry.store.write_bytes(path, b"damaged")

    def follow(self, running: str | None = "v1", **decided: str) -> dict[str, str]:
        """What the engine has after it was decided that `decided` draft on v1."""
        self.watcher.follow(LadderState(champion="v1", adapters=decided), running)
        found: dict[str, str] = self.thread.call(lambda engine: engine.adapters.report()["loaded"]).result(10)
        return dict(found)

    def ask(self, segment: str) -> list[int]:
        async def collect() -> list[int]:
            sampling = SamplingParams(temperature=0.7, max_tokens=30, seed=5, ignore_eos=True)
            request = GenerationRequest("a", (3, 4, 5), sampling, segment=segment)
            return [token async for output in self.thread.generate(request) for token in output.token_ids]

        return asyncio.run(collect())


@pytest.fixture
def bench(
    tmp_path: Path, traffic: Any, make_adapter: Callable[..., Adapter], save_adapter: Callable[..., Path]
) -> Iterator[Bench]:
    made = Bench(tmp_path, traffic, make_adapter, save_adapter)
    yield made
    made.thread.close()


def test_what_was_decided_is_loaded_replaced_and_unloaded(bench: Bench) -> None:
    expected = bench.ask("a")
    first, second, other = bench.publish("a"), bench.publish("a", seed=1), bench.publish("b")
    assert bench.follow(a=first) == {"a": first}
    assert bench.follow(a=first, b=other) == {"a": first, "b": other}
    assert bench.ask("a") == expected, "an adapter changes no token"
    assert bench.follow(a=second, b=other) == {"a": second, "b": other}
    assert bench.follow(b=other) == {"b": other}
    assert bench.watcher.status() == {"loaded": {"b": other}, "decided": {"b": other}, "unusable": {}}
    assert bench.follow() == {}


def test_without_adapters_the_engine_is_not_even_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.thread, "call", lambda change: pytest.fail("asked"))
    bench.watcher.follow(LadderState(champion="v1"), "v1")


@pytest.mark.parametrize("damage", ["corrupt", "missing", "other base", "rank", "segment"])
def test_a_bad_adapter_leaves_its_segment_as_it_is(bench: Bench, damage: str) -> None:
    good, other = bench.publish("a"), bench.publish("b")
    assert bench.follow(a=good) == {"a": good}
    bad = bench.publish(
        "a", seed=1, base="v2" if damage == "other base" else "v1", rank=99 if damage == "rank" else 3
    )
    if damage == "segment":
        bad = bench.publish("c")
    if damage == "corrupt":
        bench.corrupt(bad)
    if damage == "missing":
        bench.registry.store.delete(f"registry/{bench.fingerprint}/adapters/{bad}")
    assert bench.follow(a=bad, b=other) == {"a": good, "b": other}
    status = bench.watcher.status()
    assert status["decided"]["a"] == bad and status["loaded"]["a"] == good
    reasons = {
        "corrupt": "expected",
        "missing": "is not in",
        "other base": "is for base",
        "rank": "adapter_rank 16",
        "segment": "is for segment c, not for a",
    }
    assert reasons[damage] in status["unusable"][bad]
    bench.follow(a=good)
    assert bench.watcher.status()["unusable"] == {}


def test_a_bad_adapter_is_tried_again_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = bench.publish("a")
    path = bench.root / "store" / "registry" / bench.fingerprint / "adapters" / adapter
    path.rename(path.with_name("away"))
    assert bench.follow(a=adapter) == {}
    path.with_name("away").rename(path)
    assert bench.follow(a=adapter) == {}
    monkeypatch.setattr(adapters, "RETRY_BAD_S", 0.0)
    assert bench.follow(a=adapter) == {"a": adapter}


def test_nothing_is_loaded_while_another_version_than_the_champion_runs(bench: Bench) -> None:
    adapter = bench.publish("a")
    assert bench.follow("v0", a=adapter) == {} == bench.watcher.status()["decided"]
    assert bench.follow(None, a=adapter) == {}
    assert bench.follow("v1", a=adapter) == {"a": adapter}


def test_adapters_come_back_to_an_engine_that_was_rebuilt(bench: Bench) -> None:
    adapter = bench.publish("a")
    expected = bench.ask("a")
    assert bench.follow(a=adapter) == {"a": adapter}

    def break_down(engine: Any) -> None:
        engine.step = lambda: 1 // 0

    bench.thread.call(break_down).result(10)
    assert bench.ask("a") == []
    assert bench.thread.call(lambda engine: engine.adapters.report()["loaded"]).result(10) == {}
    assert bench.follow(a=adapter) == {"a": adapter}
    assert bench.ask("a") == expected


def test_a_dead_engine_is_no_error_here(bench: Bench) -> None:
    adapter = bench.publish("a")
    bench.thread.close()
    bench.watcher.follow(LadderState(champion="v1", adapters={"a": adapter}), "v1")
    assert bench.watcher.status()["loaded"] == {}
