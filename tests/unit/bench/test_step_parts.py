from __future__ import annotations

from typing import Any

import pytest
import torch

from online_draft.bench.step import StepOptions
from online_draft.bench.step.floor import Floor, streamed_bytes
from online_draft.bench.step.measure import step_engine
from online_draft.bench.step.shapes import SHAPES, check_memory, parameter_count, random_loaded, shape
from online_draft.bench.step.timing import time_steps, tokens_needed
from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError
from online_draft.models.config import TargetConfig
from online_draft.models.target import Target


def test_reading_takes_time_and_more_bytes_take_longer() -> None:
    small, large = Floor(1 << 16, "cpu").measure(), Floor(1 << 26, "cpu").measure(5)
    assert 0 < small[1] <= small[0] < large[0]


def test_a_step_reads_the_lm_head_but_not_an_untied_embedding() -> None:
    tied, untied = (Target(TargetConfig.tiny(tie=tie)) for tie in (True, False))
    assert streamed_bytes(tied) == streamed_bytes(untied)
    assert streamed_bytes(tied) == sum(p.nbytes for p in tied.parameters())


def test_shapes_have_the_size_of_their_namesakes() -> None:
    counts = {name: round(parameter_count(config) / 1e6) for name, config in SHAPES.items()}
    assert counts == {"135m": 135, "1b": 1236, "7b": 6738}
    assert shape("7b", 2).num_layers == 2


def test_too_little_memory_is_said_beforehand() -> None:
    with pytest.raises(ConfigError, match=r"random-init: needs about 2\d\.\d GiB on cpu, 16.0 GiB"):
        check_memory(SHAPES["7b"], torch.bfloat16, "cpu", 1000, free=16 << 30)
    check_memory(shape("7b", 4), torch.bfloat16, "cpu", 1000, free=16 << 30)


def test_a_shape_runs_and_its_steps_are_split() -> None:
    loaded = random_loaded(TargetConfig.tiny("llama", True), torch.float32, "cpu")
    engine = Engine(loaded, EngineConfig(max_sequences=2, ngram=False))
    sampling = SamplingParams(temperature=0.0, max_tokens=tokens_needed(4, 0, 6), ignore_eos=True)
    requests = [GenerationRequest(str(i), (1, 2, 3 + i), sampling) for i in range(2)]
    times = time_steps(engine, requests, 4, "cpu")
    assert len(times.whole) == 4 and {len(values) for values in times.parts.values()} == {4}
    assert set(times.parts) == {"host", "draft", "forward", "verify", "compaction"}
    assert 0 < times.medians["forward"] < sum(times.medians.values()) < 10 * times.step
    assert engine.timer is None and engine.load() == (0, 0)


def test_a_speculative_step_spends_time_on_its_draft(traffic: Any) -> None:
    engine = Engine(traffic.loaded, EngineConfig(max_sequences=1, speculation="always", ngram=False))
    engine.set_drafter(traffic.drafter(), "v")
    sampling = SamplingParams(temperature=0.0, max_tokens=tokens_needed(3, 3, 3), ignore_eos=True)
    times = time_steps(engine, [GenerationRequest("a", (1, 2, 3), sampling)], 3, "cpu")
    assert times.medians["draft"] > 0


@pytest.mark.parametrize("rows", [2, 8, 32])
def test_the_steps_that_are_timed_have_exactly_so_many_rows(traffic: Any, rows: int) -> None:
    options = StepOptions(context=20, steps=3, rows=(rows,))
    engine = step_engine(traffic.loaded, traffic.drafter(), rows, 1, options)
    sampling = SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True)
    engine.add(GenerationRequest("a", tuple(range(20)), sampling))
    last = [output for _ in range(20) if engine.has_work for output in engine.step()][-1]
    assert last.counts is not None and last.counts.steps > 3
    drafting = last.counts.steps - 1 - (last.counts.drafted < (last.counts.steps - 1) * (rows - 1))
    assert last.counts.drafted == drafting * (rows - 1), "but for the prompt's step and a last lone token"


def test_requests_last_until_a_wide_batch_is_timed(traffic: Any) -> None:
    options = StepOptions(context=120, steps=3, rows=(4,), batch=(16,))
    engine = step_engine(traffic.loaded, traffic.drafter(), 4, 16, options)
    limit = tokens_needed(3, 3, 16 * 120)
    sampling = SamplingParams(temperature=0.0, max_tokens=limit, ignore_eos=True)
    requests = [GenerationRequest(str(i), (i + 1,) * 120, sampling) for i in range(16)]
    assert len(time_steps(engine, requests, 3, "cpu").whole) == 3
    engine.check_integrity()
