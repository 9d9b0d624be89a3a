"""The machine that a benchmark ran on, as its JSON reports it, and the memory that is left."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from online_draft.errors import ConfigError

DTYPES = ("float32", "float64", "bfloat16")
_PACKAGES = ("online-draft", "torch", "transformers")


def prepare(device: str, dtype: str, threads: int | None) -> torch.dtype:
    """Check a benchmark's `--device` and `--dtype`, set its threads; the dtype. Raises ConfigError."""
    if dtype not in DTYPES:
        raise ConfigError("dtype", f"accepted are {', '.join(DTYPES)}; got {dtype}")
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError("device", f"accepted are cpu and cuda; got {device}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device", f"{device}: torch finds no CUDA device here")
    if threads is not None:
        if threads < 1:
            raise ConfigError("threads", f"must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    chosen: torch.dtype = getattr(torch, dtype)
    return chosen


def machine_facts(device: str) -> dict[str, Any]:
    """What figures depend on besides the command: processor, cores, threads, accelerator, versions."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
    }


def cpu_model(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, with its vector extension where that is known."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    model = named.get("model name") or platform.processor() or platform.machine()
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def available_bytes(device: str) -> int:
    """Memory that a new allocation may take on the device: free, or reclaimable and within the cgroup."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    limits = [_meminfo(Path("/proc/meminfo")), _cgroup(Path("/sys/fs/cgroup"))]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given; nothing to wait for on the CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _meminfo(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _cgroup(root: Path) -> int | None:
    try:
        limit = (root / "memory.max").read_text(encoding="utf-8").strip()
        used = int((root / "memory.current").read_text(encoding="utf-8"))
        return None if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return None
