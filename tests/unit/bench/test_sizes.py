"""Sizes from shapes are those that the engine and the drafter really have, and the guide states them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from online_draft.bench import sizes
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.memory import plan_memory
from online_draft.models.artifact import new_drafter
from online_draft.models.config import TargetConfig
from online_draft.models.loading import random_target

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "changes", [{}, {"num_layers": 3, "vocab_size": 200}, {"tie": True, "hidden_size": 64}]
)
def test_a_shape_needs_what_the_engine_plans_for(changes: dict[str, Any]) -> None:
    config, engine = TargetConfig.tiny(**changes), EngineConfig(max_sequences=2, kernels="off")
    target = random_target(config)
    size = sizes.size_of(config, torch.float32, engine)
    plan = plan_memory(2**30, engine, target)
    assert (size.target, size.step) == (plan.target, plan.step)
    assert (plan.kv_tokens + engine.block_size) * size.kv_token == plan.kv
    drafter = new_drafter("amphista", target)
    assert size.drafter == sum(parameter.nbytes for parameter in drafter.parameters())
    assert size.replica(0) == plan.target + plan.step + 3 * size.drafter


def test_the_guide_has_the_table_of_today() -> None:
    guide = (ROOT / "docs/deploy.md").read_text()
    assert "\n".join(sizes.table()) in guide, "run `python -m online_draft.bench.sizes`"


def test_the_workers_of_the_manifest_hold_the_targets_that_the_guide_says() -> None:
    (service,) = yaml.safe_load_all((ROOT / "deploy/kubernetes/rayservice.yaml").read_text())
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    given = group["template"]["spec"]["containers"][0]["resources"]["requests"]["memory"]
    memory = int(re.fullmatch(r"(\d+)Gi", given)[1]) * sizes.GIB  # type: ignore[index]
    size = sizes.size_of(*sizes.MODELS["135M"])
    assert size.replica(EngineConfig().kv_tokens) + size.learner + 2 * sizes.GIB < memory
