"""The name that binds drafters, records and journals to one target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from online_draft.models.config import TargetConfig

_HASHED_FIELDS = (
    "architecture",
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "max_position_embeddings",
    "tie_word_embeddings",
)
"""Fixed for good: a field added here would orphan every drafter made before."""


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 (hex) of a tensor's dtype, shape and bytes, wherever it is."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def target_fingerprint(config: TargetConfig, digests: Mapping[str, str], tokenizer: bytes) -> str:
    """`arch-<16 hex of weights>-<8 hex of tokenizer>`.

    `digests` maps each weight's stored name to its `tensor_digest` as stored, so that neither sharding nor
    the dtype or device served on changes the result. The end-of-sequence ids are no part of it.
    """
    fields = asdict(config)
    known = {name: fields[name] for name in _HASHED_FIELDS}
    weights = hashlib.sha256(json.dumps([known, sorted(digests.items())], sort_keys=True).encode())
    words = hashlib.sha256(tokenizer)
    return f"{config.architecture}-{weights.hexdigest()[:16]}-{words.hexdigest()[:8]}"
