from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.core import Interaction
from online_draft.learner.config import GateConfig
from online_draft.learner.judge.gate import Evaluation, Gate
from online_draft.training.replay import ReplayResult, replayed_tau

CONFIG = GateConfig(min_records=8, min_new_records=3, max_records=20, resamples=500)
Make = Callable[..., Interaction]


def results(tau: float, count: int = 20, seed: int = 0) -> list[ReplayResult]:
    rng = random.Random(seed)
    return [ReplayResult(20, max(20, round(20 * rng.gauss(tau, 0.2))), [], []) for _ in range(count)]


def held_out(make: Make, count: int, at_ms: int = 0) -> Reservoirs:
    reservoirs = Reservoirs(ReservoirConfig(held_out_fraction=1.0))
    for index in range(count):
        reservoirs.add(make(at_ms + index, finished_at_ms=at_ms + index))
    return reservoirs


def test_a_clearly_better_candidate_passes(make_interaction: Make) -> None:
    gate = Gate(CONFIG)
    verdict = gate.judge([make_interaction()], results(2.5), results(2.0, seed=1))
    assert verdict.numbers.passed and not verdict.worse
    assert verdict.as_numbers()["look"] == 1


def test_a_worse_candidate_fails_and_is_called_worse(make_interaction: Make) -> None:
    verdict = Gate(CONFIG).judge([make_interaction()], results(1.5), results(2.0, seed=1))
    assert not verdict.numbers.passed and verdict.worse


def test_equals_neither_pass_nor_are_worse(make_interaction: Make) -> None:
    same = results(2.0)
    verdict = Gate(CONFIG).judge([make_interaction()], same, same)
    assert not verdict.numbers.passed and not verdict.worse


def test_alpha_is_spent_over_looks_and_renewed_by_a_new_champion(make_interaction: Make) -> None:
    gate = Gate(CONFIG)
    spent = [gate.judge([make_interaction()], results(2.0), results(2.0)).numbers.alpha for _ in range(200)]
    assert spent[0] == pytest.approx(0.025)
    assert spent == sorted(set(spent), reverse=True)
    assert sum(spent) < CONFIG.alpha
    gate.reset(since_ms=5)
    assert gate.judge([make_interaction()], results(2.0), results(2.0)).numbers.alpha == spent[0]


def test_many_looks_at_chance_rarely_pass(make_interaction: Make) -> None:
    false_passes = 0
    for trial in range(40):
        gate = Gate(CONFIG)
        for look in range(10):
            seed = 1000 * trial + 2 * look
            verdict = gate.judge([make_interaction()], results(2.0, seed=seed), results(2.0, seed=seed + 1))
            false_passes += verdict.numbers.passed
    assert false_passes <= 6


def test_waits_for_enough_records_since_the_promotion(make_interaction: Make) -> None:
    gate = Gate(CONFIG)
    gate.reset(since_ms=100)
    reservoirs = held_out(make_interaction, 50)
    assert gate.records(reservoirs) == ([], "0 of 8 held-out records")
    for index in range(100, 108):
        reservoirs.add(make_interaction(index, finished_at_ms=index))
    records, waits = gate.records(reservoirs)
    assert [record.finished_at_ms for record in records] == list(range(100, 108))
    assert waits == ""


def test_the_next_look_needs_new_records_and_takes_the_newest(make_interaction: Make) -> None:
    gate = Gate(CONFIG)
    reservoirs = held_out(make_interaction, 30)
    records, _ = gate.records(reservoirs)
    assert [record.finished_at_ms for record in records] == list(range(10, 30))
    gate.judge(records, results(2.0), results(2.0))
    assert gate.records(reservoirs) == ([], "0 of 3 new held-out records")
    for index in range(30, 33):
        reservoirs.add(make_interaction(index, finished_at_ms=index))
    assert gate.records(reservoirs)[0][-1].finished_at_ms == 32


def test_refusals_enter_the_journal_ever_more_rarely() -> None:
    gate = Gate(GateConfig(refuse_every_s=10))
    due = [second for second in range(0, 400, 5) if gate.refusal_due(second * 1000)]
    assert due == [0, 10, 30, 70, 150, 310]
    gate.reset(since_ms=0)
    assert gate.refusal_due(401_000)


def test_an_evaluation_in_pieces_equals_one_in_whole(traffic) -> None:  # type: ignore[no-untyped-def]
    records = traffic.interactions(7)
    champion, candidate = traffic.drafter(), traffic.drafter(seed=3)
    cache: dict[Interaction, ReplayResult] = {}
    evaluation = Evaluation(candidate, champion, traffic.loaded.target, records, 8, cache)
    while not evaluation.done:
        evaluation.advance(3)
    assert evaluation.candidate_results == replayed_tau(candidate, traffic.loaded.target, records, 8)
    assert evaluation.champion_results == replayed_tau(champion, traffic.loaded.target, records, 8)
    again = Evaluation(candidate, champion, traffic.loaded.target, records[3:], 8, cache)
    again.advance(99)
    assert again.done and again.champion_results == evaluation.champion_results[3:]
