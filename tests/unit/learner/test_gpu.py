from __future__ import annotations

from typing import Any

import pytest
import torch

from online_draft.errors import ConfigError
from online_draft.learner.idle.gpu import Residence, bound_memory, target_dtype


def test_half_precision_is_for_cuda() -> None:
    assert target_dtype("cpu", "bfloat16") == torch.float32
    assert target_dtype("cuda", "bfloat16") == torch.bfloat16
    assert target_dtype("cuda:1", "float64") == torch.float32


def test_on_a_cpu_nothing_moves_and_nothing_is_bounded(traffic: Any) -> None:
    residence = Residence(traffic.loaded.target)
    assert not residence.on_gpu
    residence.come_back()
    assert traffic.loaded.target.device.type == "cpu"
    bound_memory("cpu", 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_left_and_taken_again(traffic: Any) -> None:
    from online_draft.models.config import TargetConfig
    from online_draft.models.loading import random_target

    sizes = TargetConfig.tiny("llama", False, 64)
    target = random_target(sizes, 0, torch.float32).to("cuda")
    before = torch.cuda.memory_allocated()
    residence = Residence(target)
    residence.leave()
    assert torch.cuda.memory_allocated() < before and target.device.type == "cpu"
    residence.come_back()
    assert target.device.type == "cuda" and residence.on_gpu
    with pytest.raises(ConfigError, match="gpu_memory_mb"):
        bound_memory("cuda", 10**9)
