"""Adapters after their base: kept where they still beat none, else dropped, and made anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.errors import ConfigError, StoreError
from online_draft.learner.adapters.config import AdaptersConfig
from online_draft.learner.adapters.regate import Regate
from online_draft.learner.adapters.view import RegateView
from online_draft.learner.config import GateConfig, LearnerConfig, PaceConfig
from online_draft.learner.student import Student
from online_draft.models.adapters.adapter import Adapter, AdapterCard
from online_draft.models.adapters.files import read_adapter
from online_draft.models.artifact import base_digest, load_drafter, save_drafter
from online_draft.registry.adapters import AdapterRegistry
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.ladder import LadderState, decide, fold
from online_draft.registry.manifest import Provenance, tenant_mark
from online_draft.store import ArtifactStore
from online_draft.training.adapters.student import LoraSizes
from online_draft.training.adapters.train import AdapterTraining, train_adapter
from online_draft.training.trainer_config import TrainerConfig

CONFIG = LearnerConfig(
    pace=PaceConfig(slice_ms=10_000, max_batch=24),
    gate=GateConfig(min_records=16, max_records=48, alpha=0.2, resamples=500),
    reservoirs=ReservoirConfig(held_out_fraction=0.25, repeats=1000),
    adapters=AdaptersConfig(min_training=50, steps=120, rank=8, learning_rate=2e-2),
)
REBUILD = replace(CONFIG, adapters=replace(CONFIG.adapters, mode="rebuild"))


@pytest.fixture(scope="module")
def records(traffic: Any) -> Reservoirs:
    kept = Reservoirs(CONFIG.reservoirs)
    for interaction in traffic.interactions(260, "a"):
        kept.add(interaction)
    return kept


@pytest.fixture(scope="module")
def learnt(traffic: Any) -> Adapter:
    """An adapter of the untrained base that helps segment a."""
    base = traffic.drafter().requires_grad_(False)
    training = AdapterTraining(
        steps=150, batch=12, lora=LoraSizes(8), trainer=TrainerConfig(learning_rate=2e-2, anchors=24)
    )
    card = AdapterCard("a", base.kind, traffic.loaded.fingerprint, base_digest(base), "v1")
    trained = traffic.interactions(240, "a", seed=1)
    return train_adapter(base, traffic.loaded.target, trained, card, training).adapter()


@dataclass
class House:
    """A journal whose champion is v1; adapters of it are published by `publish` and loaded by `load`."""

    root: Path
    traffic: Any
    save: Callable[..., Path]
    records: Reservoirs
    told: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = ArtifactStore(self.root / "store")
        self.fingerprint = self.traffic.loaded.fingerprint
        self.adapters = AdapterRegistry(self.store, self.fingerprint)
        self.drafters = DrafterRegistry(self.store, self.fingerprint)
        self.journal = DecisionJournal(self.store, self.fingerprint)
        self.champion: Any = None
        self.promote("v1", self.traffic.drafter())

    @property
    def state(self) -> LadderState:
        return fold(self.journal.read())

    def decide(self, kind: Any, version: str, actor: str = "admin", **numbers: Any) -> Decision:
        return decide(self.journal, self.state.seq, kind, version, actor, "test", numbers)

    def promote(self, version: str, drafter: Any) -> None:
        save_drafter(drafter, self.root / version, self.fingerprint)
        self.drafters.publish(self.root / version, Provenance(), name=version)
        self.champion = load_drafter(self.root / version, self.traffic.loaded.target)
        self.decide("promote", version)

    def load(self, adapter: Adapter, segment: str = "a") -> str:
        digest = base_digest(self.champion)
        card = {"target": self.fingerprint, "base_digest": digest, "segment": segment}
        directory = self.save(adapter, self.root / f"made-{self.state.seq}", **card)
        name = self.adapters.publish(directory, str(self.state.champion), Provenance(tenants=("whose",)))
        self.decide("adapter_load", name, segment=segment, base=self.state.champion)
        return name

    def regate(self, config: LearnerConfig = CONFIG) -> Regate:
        view = RegateView(self.store, self.fingerprint, self.root / "cache", self.told.append)
        return Regate(self.traffic.loaded.target, config, 16, view)

    def begin(self, regate: Regate) -> None:
        student = SimpleNamespace(version=self.state.champion, champion=self.champion)
        regate.begin(self.state, cast(Student, student), self.records)

    def run(self, regate: Regate, until: Callable[[], object], pieces: int = 400) -> None:
        for _ in range(pieces):
            if until():
                return
            self.begin(regate)
            regate.advance()
        raise AssertionError(regate.status())


@pytest.fixture
def house(tmp_path: Path, traffic: Any, save_adapter: Callable[..., Path], records: Reservoirs) -> House:
    return House(tmp_path, traffic, save_adapter, records)


def nearly(traffic: Any) -> Any:
    """Another base that needs what the first one needs."""
    drafter = traffic.drafter()
    with torch.no_grad():
        drafter.norm.weight.mul_(1.02)
    return drafter


def test_an_adapter_that_still_beats_none_is_bound_to_the_new_base_and_loaded(
    house: House, traffic: Any, learnt: Adapter, tmp_path: Path
) -> None:
    former = house.load(learnt)
    house.promote("v2", nearly(traffic))
    regate = house.regate()
    house.run(regate, lambda: house.state.adapters)
    kept = house.state.adapters["a"]
    decision = house.journal.read()[-1]
    assert kept != former and house.told == [decision]
    assert (decision.kind, decision.actor, decision.version) == ("adapter_load", "learner", kept)
    assert decision.numbers["base"] == "v2" and decision.numbers["lower_bound"] > 0
    assert decision.numbers["gain"] > 0.01 and decision.numbers["records"] >= 16
    manifest = house.adapters.fetch(kept, tmp_path / "kept")
    assert (manifest.base, manifest.provenance.parent) == ("v2", former)
    assert manifest.provenance.tenants == ("whose",), "the weights are the same ones"
    adapter = read_adapter(tmp_path / "kept")
    adapter.check(house.champion)
    assert adapter.card.base_digest == base_digest(house.champion)
    assert adapter.card.evaluation["tau"] > adapter.card.evaluation["tau_without"]
    assert house.adapters.manifest(former).base == "v1", "what was published stays as it was"
    seq = house.state.seq
    for _ in range(3):
        house.begin(regate)
        assert not regate.busy
    assert house.state.seq == seq and regate.status()["kept"] == 1


def test_an_adapter_that_beats_none_no_more_is_dropped_with_its_numbers(
    house: House, traffic: Any, make_adapter: Callable[..., Adapter]
) -> None:
    former = house.load(make_adapter(house.champion, "a", scale=2.0))
    house.promote("v2", nearly(traffic))
    regate = house.regate()
    house.run(regate, lambda: not house.state.waiting_adapters)
    decision = house.journal.read()[-1]
    assert (decision.kind, decision.version, decision.actor) == ("adapter_drop", former, "learner")
    assert decision.numbers["segment"] == "a" and decision.numbers["base"] == "v2"
    assert decision.numbers["records"] >= 16 and decision.reason
    assert house.state.adapters == {} and regate.status()["dropped"] == 1
    house.begin(regate)
    assert not regate.busy, "mode regate makes none anew"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_dropped_adapter_is_made_anew_even_by_another_learner(
    house: House, traffic: Any, make_adapter: Callable[..., Adapter], tmp_path: Path
) -> None:
    house.load(make_adapter(house.champion, "a", scale=2.0))
    house.promote("v2", nearly(traffic))
    first = house.regate(REBUILD)
    house.run(first, lambda: not house.state.waiting_adapters)
    assert house.journal.read()[-1].kind == "adapter_drop"
    house.begin(first)
    assert first.learning and "learns" in first.doing
    again = house.regate(REBUILD)
    house.run(again, lambda: house.state.adapters)
    made = house.state.adapters["a"]
    manifest = house.adapters.fetch(made, tmp_path / "made")
    assert (manifest.base, manifest.provenance.counts) == ("v2", {"slices": 120})
    assert manifest.provenance.records >= 50
    assert manifest.provenance.tenants == (tenant_mark("default"),)
    adapter = read_adapter(tmp_path / "made")
    assert adapter.rank == 8 and adapter.card.provenance["made_by"] == "learner"
    numbers = house.journal.read()[-1].numbers
    assert numbers["gain"] > 0.01 and numbers["look"] == 1
    assert again.status()["rebuilt"] == 1


def test_what_is_made_anew_and_beats_none_neither_is_given_up(
    house: House, traffic: Any, make_adapter: Callable[..., Adapter]
) -> None:
    house.load(make_adapter(house.champion, "a", scale=2.0))
    house.promote("v2", nearly(traffic))
    lazy = replace(REBUILD, adapters=replace(REBUILD.adapters, steps=1, learning_rate=1e-9))
    regate = house.regate(lazy)
    house.run(regate, lambda: regate.status()["given_up"])
    assert house.state.adapters == {} and house.journal.read()[-1].kind == "adapter_drop"
    house.begin(regate)
    assert not regate.busy


def test_an_adapter_that_does_not_fit_the_new_base_is_dropped(
    house: House, traffic: Any, learnt: Adapter
) -> None:
    house.load(learnt)
    house.promote("v2", traffic.drafter(num_heads=2))
    regate = house.regate()
    house.run(regate, lambda: not house.state.waiting_adapters)
    assert "no layer" in house.journal.read()[-1].reason


def test_it_waits_for_records_and_for_comparisons_to_end(house: House, traffic: Any, learnt: Adapter) -> None:
    house.load(learnt, "b")
    house.promote("v2", nearly(traffic))
    regate = house.regate()
    house.begin(regate)
    assert not regate.busy and regate.waits_for == "0 of 16 held-out records"
    house.decide("adapter_drop", house.state.waiting_adapters["b"])
    house.load(learnt)
    house.drafters.publish(house.root / "v1", Provenance(), name="v3")
    house.champion = load_drafter(house.root / "v1", traffic.loaded.target)
    house.decide("promote", "v3")
    house.decide("propose", "v4")
    house.decide("canary", "v4")
    house.begin(regate)
    assert not regate.busy and regate.waits_for == "v4 is compared with v3"
    house.decide("refuse", "v4")
    house.begin(regate)
    assert regate.busy and regate.waits_for == ""


def test_a_piece_that_is_interrupted_is_done_again(house: House, traffic: Any, learnt: Adapter) -> None:
    house.load(learnt)
    house.promote("v2", nearly(traffic))
    regate = house.regate()
    house.begin(regate)
    for _ in range(60):
        regate.advance(lambda: True)
    assert regate.busy and house.state.waiting_adapters
    house.run(regate, lambda: house.state.adapters)


def test_another_promotion_ends_what_is_in_progress(house: House, traffic: Any, learnt: Adapter) -> None:
    house.load(learnt)
    house.promote("v2", nearly(traffic))
    regate = house.regate()
    house.begin(regate)
    regate.advance()
    house.promote("v3", traffic.drafter(num_heads=2))
    house.run(regate, lambda: not house.state.waiting_adapters)
    decision = house.journal.read()[-1]
    assert (decision.kind, decision.numbers["base"]) == ("adapter_drop", "v3")


def test_what_a_person_decided_meanwhile_stands(house: House, traffic: Any, learnt: Adapter) -> None:
    former = house.load(learnt)
    house.promote("v2", nearly(traffic))
    regate = house.regate()
    house.begin(regate)
    house.decide("adapter_drop", former)
    seq = house.state.seq
    while regate.busy:
        regate.advance()
    assert house.state.seq == seq and house.state.adapters == {}


def test_a_store_that_is_away_is_tried_again(
    house: House, traffic: Any, learnt: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.load(learnt)
    house.promote("v2", nearly(traffic))

    def away(*_: Any) -> Any:
        raise StoreError("the disk is gone")

    for pause_s, again in ((1000.0, False), (0.0, True)):
        regate = house.regate()
        monkeypatch.setattr("online_draft.learner.adapters.regate.RETRY_S", pause_s)
        with monkeypatch.context() as patch:
            patch.setattr(RegateView, "fetch", away)
            house.begin(regate)
            assert not regate.busy and regate.waits_for == "the disk is gone"
        house.begin(regate)
        assert regate.busy is again


def test_what_is_made_anew_learns_from_its_segment_only(make_interaction: Callable[..., Any]) -> None:
    kept = Reservoirs(ReservoirConfig(held_out_fraction=0.0, repeats=1000))
    for index in range(60):
        kept.add(make_interaction(index, segment="ab"[index % 3 == 0]))
    rng = random.Random(0)
    assert {record.segment for record in kept.sample(40, rng)} == {"a", "b"}
    for segment in "ab":
        assert {record.segment for record in kept.sample(40, rng, segment)} == {segment}
    assert kept.sample(40, rng, "c") == []


def test_mode_off_leaves_them_to_a_person(house: House, traffic: Any, learnt: Adapter) -> None:
    house.load(learnt)
    house.promote("v2", nearly(traffic))
    regate = house.regate(replace(CONFIG, adapters=AdaptersConfig(mode="off")))
    house.begin(regate)
    assert not regate.busy and house.state.waiting_adapters


@pytest.mark.parametrize(
    ("name", "value"),
    [("mode", "on"), ("min_training", 0), ("steps", 0), ("rank", 0), ("learning_rate", 0.0)],
)
def test_wrong_settings_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"learner\.adapters\.{name}"):
        AdaptersConfig(**{name: value})
