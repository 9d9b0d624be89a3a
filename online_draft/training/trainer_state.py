"""A trainer's state as one safetensors file: tensors, and a head of plain JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from online_draft.errors import ArtifactError


def write_state(path: Path, tensors: dict[str, Tensor], head: dict[str, Any]) -> None:
    """Replace `path` at once; durable on return."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, {"trainer": json.dumps(head)})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def state_bytes(tensors: dict[str, Tensor], head: dict[str, Any]) -> bytes:
    """What `write_state` would write."""
    return save({k: v.contiguous() for k, v in tensors.items()}, {"trainer": json.dumps(head)})


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inverse of `write_state`. Raises OSError, SafetensorError, KeyError or ValueError."""
    with safe_open(path, framework="pt") as file:
        head = json.loads((file.metadata() or {})["trainer"])
        return {key: file.get_tensor(key) for key in file.keys()}, head  # noqa: SIM118


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Replace `path` with these weights at once, in full precision; durable on return."""
    write_state(path, {name: tensor.detach().cpu() for name, tensor in weights.items()}, {})


def read_weights(path: Path, module: torch.nn.Module) -> None:
    """Load weights of `write_weights` into a module. Raises ArtifactError when they don't fit."""
    try:
        module.load_state_dict(read_state(path)[0])
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"weights {path} can't be used: {error}") from error
