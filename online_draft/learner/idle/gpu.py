"""What the learner takes of a GPU that serving may need, and how it gives it back."""

from __future__ import annotations

import torch

from online_draft.errors import ConfigError
from online_draft.models.target import Target

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def target_dtype(device: str, dtype: str) -> torch.dtype:
    """In which numbers the learner's own target computes: float32 on CPUs, serving's half precision on CUDA,
    where draft heads still learn in float32 (`Trainer`)."""
    return HALF.get(dtype, torch.float32) if device.startswith("cuda") else torch.float32


def bound_memory(device: str, limit_mb: int | None) -> None:
    """Let this process allocate so much of the GPU at most; beyond it allocations fail. ConfigError when the
    GPU is smaller."""
    if limit_mb is None or not device.startswith("cuda"):
        return
    total = torch.cuda.get_device_properties(device).total_memory
    if limit_mb * 2**20 > total:
        raise ConfigError("learner.gpu_memory_mb", f"the GPU has {total // 2**20}, got {limit_mb}")
    torch.cuda.set_per_process_memory_fraction(limit_mb * 2**20 / total, device)


class Residence:
    """Moves the learner's target between its GPU and main memory. On a CPU nothing moves."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._home = target.device
        self.on_gpu = self._home.type == "cuda"

    def leave(self) -> None:
        """Give the GPU's memory back, but for what CUDA itself keeps. Nothing else may hold tensors on it."""
        self._target.to("cpu")
        self.on_gpu = False
        if self._home.type == "cuda":
            torch.cuda.empty_cache()

    def come_back(self) -> None:
        """Be where it was at first. Idempotent."""
        if not self.on_gpu and self._home.type == "cuda":
            self._target.to(self._home)
            self.on_gpu = True
