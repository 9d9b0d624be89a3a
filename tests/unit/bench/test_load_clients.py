from __future__ import annotations

from typing import Any

import pytest

from online_draft.bench.load.clients import LoadRun, Stream, drive
from online_draft.bench.load.stalls import QUIET_STEPS, measure_stalls
from online_draft.bench.load.trace import Arrival
from online_draft.bench.load.work import Prompts, Work, apart, shortened
from online_draft.core import GenerationRequest, SamplingParams, StepOutput
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError
from online_draft.training.distillation.prompts import Conversation


class Time:
    """A clock that only the clients' own calls move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Watched(Engine):
    """Remembers how many requests were under way."""

    most = 0

    def step(self) -> list[StepOutput]:
        self.most = max(self.most, sum(self.load()))
        return super().step()


def work(count: int, tokens: int = 6, every_s: float = 0.0) -> list[Work]:
    sampling = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    return [Work(GenerationRequest(str(i), (i + 1, 2, 3), sampling), at_s=i * every_s) for i in range(count)]


@pytest.mark.parametrize("clients", [1, 3])
def test_a_closed_loop_keeps_so_many_requests_under_way(traffic: Any, clients: int) -> None:
    engine = Watched(traffic.loaded, EngineConfig(max_sequences=8))
    time = Time()
    run = drive(engine, work(7), clients, time.clock, time.sleep)
    assert engine.most == clients
    assert run.tokens == 7 * 6 and run.failed == 0
    assert (len(run.ttft), len(run.itl), len(run.tpot)) == (7, 7 * 5, 7)
    assert {len(answer) for answer in run.answers.values()} == {6}
    assert 0 < run.concurrency <= clients and not time.slept
    engine.check_integrity()


def test_an_open_loop_waits_for_arrivals_and_counts_from_them(traffic: Any) -> None:
    engine = Engine(traffic.loaded, EngineConfig(max_sequences=1))
    time = Time()
    run = drive(engine, work(3, every_s=100.0), None, time.clock, time.sleep)
    assert len(time.slept) == 2 and 300 > run.seconds > 200
    assert max(run.ttft) < 1
    at_once = drive(engine, work(3), None, time.clock, time.sleep)
    assert at_once.ttft[0] < at_once.ttft[1] < at_once.ttft[2], "one slot: the later ones queue"


def test_a_gap_counts_once_however_many_tokens_it_brings() -> None:
    run, stream = LoadRun(), Stream(since=1.0)
    for now, tokens in ((1.5, (1,)), (2.0, (1, 2, 3)), (2.25, (4,))):
        run.take(StepOutput("a", tokens, "", "length" if tokens == (4,) else None), stream, now)
    assert (run.ttft, run.itl, run.tpot) == ([0.5], [0.5, 0.25], [0.1875])
    assert (run.tokens, run.busy) == (5, 1.25)


def test_a_request_that_ends_with_an_error_is_counted() -> None:
    run = LoadRun()
    run.take(StepOutput("a", (), "", "abort", error="deadline exceeded"), Stream(since=0.0), 1.0)
    assert (run.failed, run.ttft, run.tpot) == (1, [], [])


def conversation(text: str) -> Conversation:
    return Conversation(({"role": "user", "content": text},))


def test_a_trace_is_cut_to_the_context(traffic: Any) -> None:
    prompts = Prompts([conversation("!" * 5), conversation("#" * 7)], traffic.loaded)
    made = prompts.replaying([Arrival(0, 10_000, 10), Arrival(8, 3, 9_999)], speedup=4, temperature=0.0)
    lengths = [(len(w.request.prompt_ids), w.request.sampling.max_tokens) for w in made]
    assert lengths == [(502, 10), (3, 256)]
    assert [w.at_s for w in made] == [0.0, 2.0]
    assert all(w.request.sampling.ignore_eos for w in made)
    assert prompts.text(0, 12) == prompts.text(2, 12) != prompts.text(1, 12)


def test_prompts_that_fill_the_context_are_left_out(traffic: Any) -> None:
    with pytest.raises(ConfigError, match="no prompt fits"):
        Prompts([conversation("!" * 600)], traffic.loaded)


def test_requests_can_be_set_apart_and_shortened() -> None:
    made = apart(shortened(work(2, every_s=5.0), 3), "other", speculate=False)
    assert {(w.request.tenant, w.request.speculate, w.at_s) for w in made} == {("other", False, 0.0)}
    assert {w.request.sampling.max_tokens for w in made} == {3}


def test_stalls_tell_gaps_during_admissions_from_quiet_ones(traffic: Any) -> None:
    engine = Engine(traffic.loaded, EngineConfig(max_sequences=3, prefill_rows_busy=16, speculation="off"))
    time = Time()
    found = measure_stalls(engine, work(2, tokens=400), [(5,) * 100, (6,) * 100], time.clock)
    assert found.admissions == 2
    assert len(found.quiet) == 2 * 2 * QUIET_STEPS
    assert len(found.admitting) >= 2 * 2 * 7
    assert found.p99_ratio == pytest.approx(1.0), "on this clock every step takes equally long"
    assert engine.load() == (0, 0)
    engine.check_integrity()


def test_stalls_end_with_the_first_stream(traffic: Any) -> None:
    engine = Engine(traffic.loaded, EngineConfig(max_sequences=3))
    found = measure_stalls(engine, work(2, tokens=8), [(5,) * 100])
    assert found.admissions == 0 and found.admitting == [] and found.p99_ratio is None
    assert engine.load() == (0, 0)
