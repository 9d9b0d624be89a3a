from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from online_draft.errors import ConfigError
from online_draft.learner.config import GateConfig, LearnerConfig, LearnerPlace, PaceConfig


def test_survives_the_way_through_plain_data() -> None:
    config = LearnerConfig(mode="dedicated", pace=PaceConfig(idle_ms=7), gate=GateConfig(alpha=0.01), ema=0.0)
    assert LearnerConfig.from_dict(asdict(config)) == config


def test_a_place_takes_what_it_needs() -> None:
    raw = {"target": "t", "store": "/s", "cache_dir": "/c", "redis_url": "redis://x", "dtype": "bfloat16"}
    place = LearnerPlace.from_dict(raw)
    assert (place.target, place.device, place.keys.prefix) == ("t", "cpu", "od")


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: LearnerConfig(mode="lazy"), "learner.mode"),  # type: ignore[arg-type]
        (lambda: LearnerConfig(features="remote"), "learner.features"),  # type: ignore[arg-type]
        (lambda: PaceConfig(slice_ms=0), "learner.pace.slice_ms"),
        (lambda: PaceConfig(floor_share=0.95), "learner.pace.floor_share"),
        (lambda: LearnerConfig(gpu_memory_mb=0), "learner.gpu_memory_mb"),
        (lambda: GateConfig(alpha=1.5), "learner.gate.alpha"),
        (lambda: GateConfig(min_records=9, max_records=8), "learner.gate.max_records"),
    ],
)
def test_a_wrong_value_names_its_field(build: Any, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert caught.value.field == field


def test_slices_are_shorter_on_cuda_unless_set() -> None:
    assert PaceConfig().limit_ms("cuda") <= 50
    assert PaceConfig().limit_ms("cpu") <= 250
    assert PaceConfig(slice_ms=7).limit_ms("cuda") == 7
