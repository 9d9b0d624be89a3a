"""The start-up profile takes little memory, and belongs to the processor and code that it was measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting.forest import Forest
from online_draft.decoding.memory import plan_memory
from online_draft.decoding.plan import StepPlan
from online_draft.decoding.policy.profile import StepProfile
from online_draft.decoding.runners import profiling
from online_draft.decoding.runners.base import Memory
from online_draft.decoding.runners.profiling import profile_tokens, step_profile
from online_draft.decoding.runners.select import RunnerChoice
from online_draft.models.native import build


class Runners:
    """Their steps do nothing but check that every row has a place."""

    def __init__(self, falls_back: bool = False) -> None:
        self.identity = "nothing"
        self.memory: Memory | None = None
        self._falls_back = falls_back

    def make(self, memory: Memory) -> Runners:
        self.memory = memory
        return self

    def run(self, plan: StepPlan, forest: Forest | None) -> None:
        if self._falls_back:
            self.identity = "eager"
        assert self.memory is not None
        table = self.memory.slots.table
        trees = plan.speculating if forest is not None else []
        ends = [s.length + count + 1 for s, count in zip(trees, forest.counts if forest else [], strict=True)]
        ends += [s.length + 1 for s in plan.plain]
        assert max(ends) <= table.shape[1]
        assert int(table.max()) < self.memory.kv.num_slots


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONLINE_DRAFT_CACHE", str(tmp_path))
    return tmp_path / "profiles"


@pytest.fixture
def profile(tiny_target, cache: Path):
    """`profile(runners, config)`: without a drafter, on one thread."""
    target = tiny_target(dtype=torch.float32).target

    def run(runners: Runners, config: EngineConfig) -> StepProfile:
        choice = cast("RunnerChoice", cast(Any, runners))
        return step_profile(choice, target, "tiny", None, config, 1)

    return run


@pytest.mark.parametrize("nodes", [0, 1, 5, 16])
@pytest.mark.parametrize("sequences", [1, 7, 64])
def test_every_measured_row_has_a_place_and_sequences_add_up(
    profile, monkeypatch: pytest.MonkeyPatch, sequences: int, nodes: int
) -> None:
    monkeypatch.setattr(profiling, "_BUDGET_S", 0.0)
    runners = Runners()
    config = EngineConfig(max_sequences=sequences, tree_nodes=nodes)
    profile(runners, config)
    assert runners.memory is not None
    assert runners.memory.kv.num_slots <= profile_tokens(config) <= 128 + sequences * 2 * (nodes + 1)


def test_a_budget_counts_what_the_profile_takes(
    tiny_target, profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "_BUDGET_S", 0.0)
    target, runners = tiny_target(dtype=torch.float32).target, Runners()
    profile(runners, EngineConfig())
    assert runners.memory is not None
    kv, ring = runners.memory.kv, runners.memory.ring
    measured, unmeasured = (
        plan_memory(1 << 28, EngineConfig(speculation=mode), target).step for mode in ("auto", "always")
    )
    taken = kv.nbytes + ring.hidden_RF.nbytes + ring.next_tokens_R.nbytes
    assert taken <= measured - unmeasured < 1.1 * taken


def test_another_processor_has_a_profile_of_its_own(
    profile, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the system doesn't name it."""
    monkeypatch.setattr(profiling, "_BUDGET_S", 0.0)
    monkeypatch.setattr(build.platform, "processor", lambda: "")
    profile(Runners(), EngineConfig())
    profile(Runners(), EngineConfig())
    assert len(list(cache.iterdir())) == 1
    flags = build.processor()
    monkeypatch.setattr(profiling, "processor", lambda: flags + " avx1024")
    profile(Runners(), EngineConfig())
    assert len(list(cache.iterdir())) == 2


def test_a_profile_of_runners_that_fell_back_is_not_kept(
    profile, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "_BUDGET_S", 0.0)
    found = profile(Runners(falls_back=True), EngineConfig())
    assert np.all(np.array(found.row_seconds) > 0)
    assert not cache.exists()
