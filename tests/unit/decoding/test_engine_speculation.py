"""What the engine makes of the policy: nothing is drafted where it doesn't pay, and no output changes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding import engine as engine_module
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting.forest import Forest
from online_draft.decoding.engine import Engine
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.policy.profile import StepProfile
from online_draft.decoding.runners.base import Rows

CHEAP = StepProfile((1, 64), (1e-3, 1.2e-3), (1, 4), (1e-4, 1e-4))
DEAR = StepProfile((1, 64), (1e-3, 64e-3), (1, 4), (1e-4, 1e-4))


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
) -> tuple[Engine, Clock]:
    """An engine that has answered all requests with a good drafter; the outputs were plain's."""
    loaded = tiny_target()
    config = EngineConfig(max_sequences=4, tree_nodes=8, feature_window=32, kernels="off", ngram=ngram)
    plain = decode(Engine(loaded, config), [replace(r, speculate=False) for r in requests()])
    clock = Clock(profile)
    monkeypatch.setattr(engine_module, "time", clock)
    monkeypatch.setattr(engine_module, "step_profile", lambda *_: profile)
    engine = Engine(loaded, config, clock=lambda: math.inf)
    texts = [list(r.prompt_ids) + plain[r.request_id] for r in requests()]
    if not ngram:
        engine.set_drafter(recall_drafter(texts, 0.7, 1), "v")
    clock.watch(engine)
    assert decode(engine, requests()) == plain
    if ngram:
        assert decode(engine, requests()) == plain
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
