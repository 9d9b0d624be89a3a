from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.core import Interaction
from online_draft.learner.config import GateConfig, LearnerConfig
from online_draft.learner.judge.examiner import Examiner
from online_draft.learner.judge.guard import Guard
from online_draft.training.replay import ReplayResult

CONFIG = GateConfig(segment_records=8, guard_records=12, resamples=500)
Make = Callable[..., Interaction]


def results(tau: float, count: int, seed: int = 0) -> list[ReplayResult]:
    rng = random.Random(seed)
    return [ReplayResult(20, max(20, round(20 * rng.gauss(tau, 0.2))), [], []) for _ in range(count)]


def records(make: Make, **groups: int) -> list[Interaction]:
    """`segment_tenant=count`."""
    made: list[Interaction] = []
    for name, count in groups.items():
        segment, tenant = name.split("_")
        made += [
            make(len(made) + i, segment=segment, tenant=tenant, finished_at_ms=len(made) + i)
            for i in range(count)
        ]
    return made


def test_a_segment_that_surely_loses_blocks(make_interaction: Make) -> None:
    judged = records(make_interaction, sql_x=20, story_x=20)
    candidate = [*results(3.0, 20), *results(1.6, 20)]
    champion = [*results(2.0, 20, 1), *results(2.0, 20, 1)]
    numbers = Guard(CONFIG).judge(judged, candidate, champion)
    assert numbers.reason.startswith("segment story: gain -21.60%, at most -")
    assert numbers.segments["story"].blocks and not numbers.segments["sql"].blocks
    assert list(numbers.as_numbers()["segments"]) == ["story", "sql"], "the worst first"


def test_too_few_records_or_a_doubtful_loss_do_not(make_interaction: Make) -> None:
    judged = records(make_interaction, sql_x=20, story_x=7)
    candidate = [*results(3.0, 20), *results(1.0, 7)]
    champion = [*results(2.0, 20, 1), *results(2.0, 7, 1)]
    assert Guard(CONFIG).judge(judged, candidate, champion).reason == ""
    judged = records(make_interaction, sql_x=20)
    noisy = [ReplayResult(20, committed, [], []) for committed in (20, 60) * 10]
    steady = [ReplayResult(20, 41, [], []) for _ in range(20)]
    numbers = Guard(CONFIG).judge(judged, noisy, steady)
    assert numbers.segments["sql"].gain < -0.01 and numbers.reason == ""


def test_a_tenant_is_heard_within_its_segment_and_not_named(make_interaction: Make) -> None:
    judged = records(make_interaction, sql_flood=60, sql_meek=10)
    candidate = [*results(3.0, 60), *results(1.6, 10)]
    champion = [*results(2.0, 60, 1), *results(2.0, 10, 1)]
    numbers = Guard(CONFIG).judge(judged, candidate, champion)
    assert numbers.reason.startswith("one tenant's records: gain -")
    assert "meek" not in str(numbers.as_numbers()) + numbers.reason
    assert numbers.as_numbers()["worst_tenant"]["records"] == 10


def test_listens_to_segments_at_rest_and_to_each_tenant_in_turn(make_interaction: Make) -> None:
    reservoirs = Reservoirs(ReservoirConfig(held_out_fraction=1.0, anchors=4))
    for record in records(make_interaction, rested_a=30, busy_a=90, busy_b=5, rare_a=7):
        reservoirs.add(record)
    chosen = Guard(CONFIG).records(reservoirs)
    by_segment = {name: [r for r in chosen if r.segment == name] for name in ("rested", "busy", "rare")}
    assert {name: len(found) for name, found in by_segment.items()} == {"rested": 12, "busy": 12, "rare": 0}
    assert sum(record.tenant == "b" for record in by_segment["busy"]) >= 4
    times = sorted(record.finished_at_ms for record in by_segment["rested"])
    assert times[:4] == [0, 1, 2, 3] and times[-1] == 29, "its first ones and its newest"
    assert len(set(chosen)) == len(chosen)


@pytest.fixture
def pupil(traffic: Any) -> Any:
    """A student whose candidate is better on segment a and nothing on b."""

    class Pupil:
        champion = traffic.drafter()
        better: Any

        def candidate(self, recent: object) -> Any:
            return self.better

    return Pupil()


def test_a_look_that_passes_is_replayed_for_the_guard(
    pupil: Any, traffic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from online_draft.learner.judge import gate
    from online_draft.registry.ladder import LadderState

    pupil.better = traffic.drafter(seed=3)
    config = LearnerConfig(gate=GateConfig(every_slices=1, min_records=16, segment_records=8, resamples=500))
    examiner = Examiner(traffic.loaded.target, config, 8)
    reservoirs = Reservoirs(ReservoirConfig(held_out_fraction=1.0))
    for record in [*traffic.interactions(20, "b", at_ms=0), *traffic.interactions(24, "a", at_ms=1000)]:
        reservoirs.add(record)

    feed: Any = SimpleNamespace(seen={"held_out": 44}, reservoirs=reservoirs)
    examiner.gate.reset(since_ms=1000)
    replay = gate.replay_features

    def replayed(drafter: Any, features: Any, nodes: int) -> list[ReplayResult]:
        """The candidate halves the steps of a and doubles those of b."""
        found = replay(drafter, features, nodes)
        for result, start in zip(found, features.tokens_BT[:, 0].tolist(), strict=True):
            if drafter is pupil.better:
                result.steps = result.committed if start >= 40 else max(1, result.committed // 2)
            else:
                result.steps = max(1, 2 * result.committed // 3)
        return found

    monkeypatch.setattr(gate, "replay_features", replayed)
    examiner.note_slice()
    examiner.begin(pupil, feed, LadderState())
    examined = None
    while examined is None:
        examined = examiner.advance()
    verdict = examined.verdict
    assert verdict.numbers.passed and verdict.numbers.records == 24, "a since the promotion"
    assert not verdict.passed and verdict.reason.startswith("segment b: gain -")
    assert verdict.as_numbers()["segments"]["b"]["records"] == 20
    assert not examiner.busy and examiner.gate.books.looks == 1
