"""Whatever goes wrong with what the learner learns from, nothing worse than the champion is proposed.

Few seeds in the usual run, twenty in the slow one. The models are tiny; gate, guard, student and reservoirs
are the real ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.core import Interaction
from online_draft.learner.config import GateConfig, LearnerConfig
from online_draft.learner.judge.examiner import Examiner
from online_draft.learner.judge.gate import Verdict
from online_draft.learner.student import Student
from online_draft.models.drafter import Drafter
from online_draft.registry.ladder import LadderState
from online_draft.training import trainer as training
from online_draft.training.replay import ReplayResult, mean_accepted_length, replayed_tau

SEEDS = [
    *range(2),
    *(pytest.param(seed, marks=[pytest.mark.slow, pytest.mark.timeout(300)]) for seed in range(2, 20)),
]
NODES = 8
CONFIG = LearnerConfig(
    gate=GateConfig(every_slices=25, min_records=10, max_records=32, resamples=500),
    reservoirs=ReservoirConfig(held_out_fraction=0.3),
    learning_rate=3e-3,
    warmup_steps=5,
)


@dataclass
class World:
    """Answers of the tiny target, by segment, and a champion that has learnt from the first of a and b."""

    traffic: Any
    pool: dict[str, list[Interaction]]
    champion: Drafter
    replayed: dict[Interaction, ReplayResult] = field(default_factory=dict)

    def some(self, segment: str, count: int, seed: int, **changes: Any) -> list[Interaction]:
        """Records that the champion didn't learn from."""
        chosen = random.Random(f"{segment}:{seed}").sample(self.pool[segment], count)
        return [replace(record, **changes) for record in chosen]

    def replay(self, drafter: Drafter, records: Sequence[Interaction]) -> list[ReplayResult]:
        return replayed_tau(drafter, self.traffic.loaded.target, records, NODES, batch=80)

    def tau(self, drafter: Drafter, records: Sequence[Interaction]) -> float:
        return mean_accepted_length(self.replay(drafter, records))

    def champion_tau(self, records: Sequence[Interaction]) -> float:
        """No record is replayed twice."""
        new = [record for record in records if record not in self.replayed]
        self.replayed.update(zip(new, self.replay(self.champion, new), strict=True))
        return mean_accepted_length([self.replayed[record] for record in records])

    def learner(self, seed: int, config: LearnerConfig = CONFIG) -> Learner:
        config = replace(config, seed=seed)
        student = Student(self.traffic.loaded.target, config)
        student.follow("champion", self.champion)
        return Learner(self, student, Examiner(self.traffic.loaded.target, config, NODES), config)


@dataclass
class Learner:
    world: World
    student: Student
    examiner: Examiner
    config: LearnerConfig
    looks: list[tuple[Drafter, Verdict]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reservoirs = Reservoirs(self.config.reservoirs)

    def take(self, records: Sequence[Interaction]) -> None:
        for record in records:
            self.reservoirs.add(record)

    def learn(self, slices: int, sample: Callable[[random.Random], list[Interaction]] | None = None) -> None:
        for step in range(slices):
            rng = random.Random(f"{self.config.seed}:{self.student.steps}:{step}")
            self.student.slice(sample(rng) if sample else self.reservoirs.sample(6, rng))
            self.examiner.note_slice()

    def look(self) -> Verdict:
        held_out = len(self.reservoirs.held_out())
        feed: Any = SimpleNamespace(reservoirs=self.reservoirs, seen={"held_out": held_out + len(self.looks)})
        self.examiner.begin(self.student, feed, LadderState())
        assert self.examiner.busy, self.examiner.waits_for
        while (examined := self.examiner.advance()) is None:
            pass
        self.looks.append((examined.candidate, examined.verdict))
        return examined.verdict


@pytest.fixture(scope="module")
def world(traffic: Any) -> Iterator[World]:
    torch.manual_seed(0)
    pool = {segment: traffic.interactions(260, segment, at_ms=1000) for segment in "abc"}
    student = Student(traffic.loaded.target, CONFIG)
    student.follow("untrained", traffic.drafter())
    rng = random.Random(0)
    known = [*pool["a"][:100], *pool["b"][:100]]
    for _ in range(120):
        student.slice(rng.sample(known, 8))
    yield World(traffic, {name: records[100:] for name, records in pool.items()}, student.candidate())


@pytest.mark.parametrize("seed", SEEDS)
def test_shuffled_labels_are_never_proposed(seed: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = world.learner(seed)
    records = world.some("a", 160, seed)
    generator = torch.Generator().manual_seed(seed)
    honest = training.row_losses

    def shuffled(logits_XV: Any, teacher_XV: Any, labels_X: Any, kind: Any) -> Any:
        order = torch.randperm(labels_X.numel(), generator=generator)
        labels = labels_X.flatten()[order].view_as(labels_X)
        teacher = teacher_XV.flatten(0, -2)[order].view_as(teacher_XV)
        return honest(logits_XV, teacher, labels, kind)

    monkeypatch.setattr(training, "row_losses", shuffled)
    for look in range(2):
        half = records[80 * look : 80 * look + 80]
        learner.take([replace(record, finished_at_ms=2000 + look) for record in half])
        learner.learn(25)
        verdict = learner.look()
        assert not verdict.passed and verdict.numbers.gain < 0


@pytest.mark.parametrize("seed", SEEDS)
def test_values_that_are_not_finite_leave_the_champion_as_it_is(
    seed: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = world.learner(seed)
    learner.take(world.some("a", 150, seed))
    honest = training.row_losses
    broken = random.Random(seed)

    def spoiled(*arguments: Any) -> Any:
        return honest(*arguments) * (float("nan") if broken.random() < 0.9 else 1.0)

    monkeypatch.setattr(training, "row_losses", spoiled)
    learner.learn(25)
    assert learner.student.counts()["rewinds"] > 0
    verdict = learner.look()
    candidate, _ = learner.looks[0]
    assert all(bool(parameter.isfinite().all()) for parameter in candidate.parameters())
    assert not verdict.passed or world.tau(candidate, world.pool["a"]) > world.champion_tau(world.pool["a"])


@pytest.mark.parametrize("seed", SEEDS)
def test_what_only_knows_its_training_records_is_never_proposed(seed: int, world: World) -> None:
    learner = world.learner(seed, replace(CONFIG, learning_rate=1e-2, leash=0.0, ema=0.0))
    learner.take(world.some("a", 150, seed))
    few = learner.reservoirs.sample(2, random.Random(seed))
    learner.learn(60, lambda rng: few)
    verdict = learner.look()
    candidate, _ = learner.looks[0]
    assert world.tau(candidate, few) > 1.2 * world.champion_tau(few), "it did learn these"
    assert not verdict.passed


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tenant_that_floods_costs_others_nothing(seed: int, world: World) -> None:
    learner = world.learner(seed)
    (prompt,) = world.some("c", 1, seed)
    flood = [
        replace(record, tenant="flood", segment="a", prompt_ids=prompt.prompt_ids, finished_at_ms=index)
        for index, record in enumerate(world.some("c", 150, seed) * 3)
    ]
    meek = world.some("a", 60, seed, tenant="meek")
    mixed = [*flood, *meek]
    random.Random(seed).shuffle(mixed)
    learner.take(mixed)
    learner.learn(50)
    verdict = learner.look()
    candidate, _ = learner.looks[0]
    if verdict.passed:
        others = [record for record in world.pool["a"] if record not in meek]
        assert world.tau(candidate, others) >= 0.98 * world.champion_tau(others)


@pytest.mark.parametrize("seed", SEEDS)
def test_learning_one_segment_does_not_cost_the_other(seed: int, world: World) -> None:
    """B rests: its records are old, only c arrives, and what is learnt from c must leave b as it was."""
    learner = world.learner(seed)
    learner.examiner.gate.reset(since_ms=1000)
    learner.take(world.some("b", 120, seed, finished_at_ms=0))
    records = world.some("c", 160, seed)
    promoted = False
    for look in range(2):
        half = records[80 * look : 80 * look + 80]
        learner.take([replace(record, finished_at_ms=2000 + look) for record in half])
        learner.learn(40)
        if learner.look().passed:
            promoted = True
            candidate, verdict = learner.looks[-1]
            assert verdict.guard is not None and "b" in verdict.guard.segments
            rest = world.pool["b"]
            assert world.tau(candidate, rest) >= 0.97 * world.champion_tau(rest)
    gains = [(verdict.numbers.gain, verdict.reason) for _, verdict in learner.looks]
    assert max(gains)[0] > 0.01, gains
    assert promoted or seed > 1, gains
