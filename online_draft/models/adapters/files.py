"""An adapter on disk: `peft`'s own two files and a card. JSON and safetensors only; `peft` isn't needed."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from online_draft.core import SCHEMA_VERSION
from online_draft.errors import ArtifactError
from online_draft.models.adapters.adapter import Adapter, AdapterCard, LowRank
from online_draft.models.json_file import read_object

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
CARD_FILE = "card.json"

_LAYER = re.compile(r"base_model\.model\.(?P<name>[\w.]+)\.lora_(?P<part>[AB])\.weight")
_UNUSED = (
    *("rank_pattern", "alpha_pattern", "use_dora", "fan_in_fan_out", "lora_bias", "modules_to_save"),
    *("use_qalora", "use_bdlora", "kasa_config", "velora_config", "monteclora_config", "arrow_config"),
    *("alora_invocation_tokens", "layer_replication", "target_parameters", "trainable_token_indices"),
)
"""Fields of `peft`'s configuration that change the arithmetic and must be empty or off."""


def read_adapter(directory: str | Path) -> Adapter:
    """Read and check an adapter directory.

    Raises ArtifactError with the reason when a file is missing, truncated, corrupt or of another kind, or
    weights are not finite or incomplete. Whether it fits a drafter is `Adapter.check`'s to say.
    """
    directory = Path(directory)
    card = read_object(directory / CARD_FILE)
    config = read_object(directory / CONFIG_FILE)
    rank, scale = _rank_and_scale(config, directory / CONFIG_FILE)
    weights = _pairs(_weights(directory / WEIGHTS_FILE, card), scale, directory / WEIGHTS_FILE)
    return Adapter(_card(card, directory / CARD_FILE), rank, weights)


def write_card(directory: str | Path, card: AdapterCard) -> None:
    """Write the card of the weights that lie in `directory`, with their checksum."""
    directory = Path(directory)
    payload = (directory / WEIGHTS_FILE).read_bytes()
    entry = {
        "schema": SCHEMA_VERSION,
        **asdict(card),
        "sha256": hashlib.sha256(payload).hexdigest(),
        "bytes": len(payload),
    }
    (directory / CARD_FILE).write_text(json.dumps(entry, indent=2, sort_keys=True) + "\n")


def _card(entry: dict[str, Any], path: Path) -> AdapterCard:
    for name in ("segment", "kind", "target", "base_digest"):
        if not isinstance(entry.get(name), str) or not entry[name]:
            raise ArtifactError(f"{path}: {name} is missing or not a string")
    if entry.get("schema") not in (SCHEMA_VERSION, SCHEMA_VERSION - 1):
        raise ArtifactError(f"{path}: schema {entry.get('schema')} is unknown, this one is {SCHEMA_VERSION}")
    return AdapterCard(
        segment=entry["segment"],
        kind=entry["kind"],
        target=entry["target"],
        base_digest=entry["base_digest"],
        base_version=str(entry.get("base_version", "")),
        evaluation=dict(entry.get("evaluation") or {}),
        provenance=dict(entry.get("provenance") or {}),
    )


def _rank_and_scale(config: dict[str, Any], path: Path) -> tuple[int, float]:
    if config.get("peft_type") != "LORA":
        raise ArtifactError(f"{path}: peft_type must be LORA, is {config.get('peft_type')!r}")
    if config.get("bias", "none") != "none":
        raise ArtifactError(f"{path}: bias must be none, is {config['bias']!r}")
    for name in _UNUSED:
        if config.get(name):
            raise ArtifactError(f"{path}: {name} must not be set, is {config[name]!r}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise ArtifactError(
            f"{path}: r must be a positive number and lora_alpha one, got {rank!r}, {alpha!r}"
        )
    return rank, alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _weights(path: Path, card: dict[str, Any]) -> dict[str, Tensor]:
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path.name} is missing in {path.parent}") from None
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error}") from error
    if len(payload) != card.get("bytes"):
        raise ArtifactError(f"{path} is truncated: {len(payload)} bytes of {card.get('bytes')}")
    if hashlib.sha256(payload).hexdigest() != card.get("sha256"):
        raise ArtifactError(f"{path} is corrupt: its checksum is not the card's")
    try:
        return load(payload)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} is not a safetensors file: {error}") from error


def _pairs(tensors: dict[str, Tensor], scale: float, path: Path) -> dict[str, LowRank]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        matched = _LAYER.fullmatch(key)
        if matched is None:
            raise ArtifactError(f"{path}: {key} is not the A or B of a linear layer")
        if tensor.ndim != 2 or not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{path}: {key} is not a matrix of finite numbers")
        parts.setdefault(matched["name"], {})[matched["part"]] = tensor
    incomplete = [name for name, pair in parts.items() if len(pair) < 2]
    if incomplete or not parts:
        raise ArtifactError(f"{path}: A or B is missing for {', '.join(incomplete) or 'every layer'}")
    return {name: LowRank(pair["A"], pair["B"] * scale) for name, pair in sorted(parts.items())}
