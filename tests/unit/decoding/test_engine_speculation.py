"""What the engine makes of the policy: nothing is drafted where it doesn't pay, and no output changes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding import engine as engine_module
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting import making
from online_draft.decoding.drafting.forest import Forest
from online_draft.decoding.engine import Engine
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.policy.profile import StepProfile
from online_draft.decoding.runners.base import Rows

CHEAP = StepProfile((1, 64), (1e-3, 1.2e-3), (1, 4), (1e-4, 1e-4))
DEAR = StepProfile((1, 64), (1e-3, 64e-3), (1, 4), (1e-4, 1e-4))
DEAR_DRAFTS = StepProfile((1, 64), (1e-3, 1.2e-3), (1, 4), (1e-3, 1e-3))


class Clock:
    """Time as a profile says it passes: nothing here depends on how fast this machine is."""

    def __init__(self, profile: StepProfile) -> None:
        self._profile = profile
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def watch(self, engine: Engine) -> None:
        """Let the engine's steps take their time."""
        runner = engine._runner
        draft, run = runner.draft, runner.run
        low, high = self._profile.row_seconds

        def timed_draft(*arguments: Any) -> Any:
            self.now += self._profile.draft_seconds[0]
            return draft(*arguments)

        def timed_run(plan: StepPlan, forest: Forest | None) -> Rows:
            rows = len(plan.speculating) + len(plan.plain) + (0 if forest is None else forest.total)
            rows += sum(chunk.count for chunk in plan.chunks)
            self.now += low + (high - low) * (rows - 1) / 63
            return run(plan, forest)

        runner.draft, runner.run = timed_draft, timed_run  # type: ignore[method-assign]


def requests() -> list[GenerationRequest]:
    return [
        GenerationRequest(
            f"r{i}",
            tuple((5 * i + j) % 256 for j in range(12)),
            SamplingParams(temperature=0.7 * (i % 2), max_tokens=150, seed=i, ignore_eos=True),
        )
        for i in range(4)
    ]


def decoded(
    profile: StepProfile,
    tiny_target,
    recall_drafter,
    decode,
    monkeypatch: pytest.MonkeyPatch,
    ngram: bool = False,
    count: int = 4,
) -> tuple[Engine, Clock]:
    """An engine that has answered `count` requests with a good drafter; the outputs were plain's."""
    loaded = tiny_target()
    config = EngineConfig(max_sequences=4, tree_nodes=8, feature_window=32, kernels="off", ngram=ngram)
    asked = requests()[:count]
    plain = decode(Engine(loaded, config), [replace(r, speculate=False) for r in asked])
    clock = Clock(profile)
    monkeypatch.setattr(engine_module, "time", clock)
    monkeypatch.setattr(making, "step_profile", lambda *_: profile)
    engine = Engine(loaded, config, clock=lambda: math.inf)
    texts = [list(r.prompt_ids) + plain[r.request_id] for r in asked]
    if not ngram:
        engine.set_drafter(recall_drafter(texts, 0.7, 1), "v")
    clock.watch(engine)
    assert decode(engine, asked) == plain
    if ngram:
        assert decode(engine, asked) == plain
    return engine, clock


def test_nothing_is_verified_where_rows_are_dear(tiny_target, recall_drafter, decode, monkeypatch) -> None:
    engine, clock = decoded(DEAR, tiny_target, recall_drafter, decode, monkeypatch)
    buckets = engine.speculation_report()["buckets"]
    assert buckets["0"] >= 0.97 * engine.steps
    # Plain steps of at most four rows each, and the prompts.
    assert clock.now <= 1.03 * 1e-3 * (4 * 150 + sum(len(r.prompt_ids) for r in requests()))


def test_the_same_drafter_is_used_where_rows_are_cheap(
    tiny_target, recall_drafter, decode, monkeypatch
) -> None:
    engine, _ = decoded(CHEAP, tiny_target, recall_drafter, decode, monkeypatch)
    buckets = engine.speculation_report()["buckets"]
    assert buckets.get("0", 0) <= 0.2 * engine.steps
    assert engine.steps <= 0.75 * 150


@pytest.mark.parametrize("ngram", [False, True])
def test_the_estimated_speedup_is_near_the_true_one(
    ngram: bool, tiny_target, recall_drafter, decode, monkeypatch
) -> None:
    """Of one sequence, whose plain steps all cost 1 ms."""
    engine, clock = decoded(CHEAP, tiny_target, recall_drafter, decode, monkeypatch, ngram, 1)
    counts = engine.speculation_counts()
    plain_ms = (1 + ngram) * 149
    assert plain_ms / (1e3 * clock.now) > 1.3
    assert counts["plain_us"] / counts["spent_us"] == pytest.approx(plain_ms / (1e3 * clock.now), rel=0.1)
    (source,) = {"heads", "ngram"} & {name for name, one in counts["sources"].items() if sum(one["nodes"])}
    assert source == ("ngram" if ngram else "heads")
    dear, _ = decoded(DEAR, tiny_target, recall_drafter, decode, monkeypatch, ngram, 1)
    counts = dear.speculation_counts()
    assert counts["plain_us"] / counts["spent_us"] == pytest.approx(1.0, abs=0.03)


def test_nothing_is_estimated_where_no_times_are_measured(tiny_target, recall_drafter, decode) -> None:
    engine = Engine(tiny_target(), EngineConfig(tree_nodes=4, kernels="off", speculation="always"))
    engine.set_drafter(recall_drafter([[1, 2, 3] * 9], 0.9, 1), "v")
    decode(engine, [GenerationRequest("r", (1, 2, 3), SamplingParams(max_tokens=20, ignore_eos=True))])
    counts = engine.speculation_counts()
    assert (counts["version"], counts["spent_us"], counts["plain_us"]) == ("v", 0, 0)


def test_what_was_said_before_is_verified_where_rows_are_cheap_and_not_where_they_are_dear(
    tiny_target, recall_drafter, decode, monkeypatch
) -> None:
    """The same requests twice, without any drafter."""
    plain_steps = 2 * 150
    cheap, _ = decoded(CHEAP, tiny_target, recall_drafter, decode, monkeypatch, ngram=True)
    assert cheap.steps <= 0.75 * plain_steps
    assert cheap.speculation_report()["ngram"]["alone"]["tokens"] > 300
    dear, clock = decoded(DEAR, tiny_target, recall_drafter, decode, monkeypatch, ngram=True)
    assert dear.speculation_report()["buckets"]["0"] >= 0.97 * dear.steps
    prompts = 2 * sum(len(r.prompt_ids) for r in requests())
    assert clock.now <= 1.03 * 1e-3 * (4 * plain_steps + prompts)


def test_a_better_drafter_wakes_an_engine_that_rests_from_a_stale_one(
    tiny_target, recall_drafter, decode, monkeypatch
) -> None:
    loaded = tiny_target()
    config = EngineConfig(max_sequences=4, tree_nodes=8, feature_window=32, kernels="off", ngram=False)
    plain = decode(Engine(loaded, config), [replace(r, speculate=False) for r in requests()])
    clock = Clock(DEAR_DRAFTS)
    monkeypatch.setattr(engine_module, "time", clock)
    monkeypatch.setattr(making, "step_profile", lambda *_: DEAR_DRAFTS)
    engine = Engine(loaded, config, clock=lambda: math.inf)
    texts = [list(r.prompt_ids) + plain[r.request_id] for r in requests()]
    engine.set_drafter(recall_drafter(texts, 0.0, 1), "stale")
    clock.watch(engine)
    policy = engine._drafting.policy
    assert decode(engine, requests()) == plain
    policy.passed(4.0)  # as much plain time as the first probe has to wait for
    assert decode(engine, requests()) == plain
    assert policy.dormant, "the stale one isn't followed any more"
    running, *later = requests()
    engine.add(running)
    for _ in range(10):
        engine.step()
    # As candidate it drafts for a share; a policy that rests learns nothing of it.
    better = recall_drafter(texts, 0.9, 1)
    engine.set_drafters(engine._arms.champion.drafter, "stale", better, "better", share=0.5)
    engine.set_drafter(better, "better")
    assert policy is engine._drafting.policy and not policy.dormant
    for request in later:
        engine.add(request)
    began, ended = engine.steps, {}
    while engine.has_work:
        ended |= {output.request_id: engine.steps - began for output in engine.step() if output.finish_reason}
    assert all(ended[request.request_id] < 0.6 * 150 for request in later)
    again = engine.steps
    assert decode(engine, requests()) == plain
    assert engine.steps - again < 0.6 * 150
