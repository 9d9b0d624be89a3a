"""A drafter on disk: `model.safetensors` (bf16) and `manifest.json`, bound to its target by a fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from online_draft.core import SCHEMA_VERSION
from online_draft.errors import ArtifactError
from online_draft.models.amphista import Amphista, AmphistaConfig
from online_draft.models.config import TargetConfig
from online_draft.models.drafter import Drafter
from online_draft.models.json_file import read_object
from online_draft.models.medusa import Medusa, MedusaConfig
from online_draft.models.target import Target
from online_draft.models.trimming import check_draft_ids

WEIGHTS_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"
KINDS = ("amphista", "medusa")


def build_drafter(kind: str, sizes: dict[str, Any]) -> Drafter:
    """An untrained, unbound drafter. Raises ArtifactError for an unknown kind, size or part."""
    if kind not in KINDS:
        raise ArtifactError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    config_type = AmphistaConfig if kind == "amphista" else MedusaConfig
    unknown = set(sizes) - {field.name for field in fields(config_type)}
    if unknown:
        raise ArtifactError(f"{kind} has no size {', '.join(sorted(unknown))}")
    try:
        config = config_type(**sizes)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{kind} can't have these sizes: {error}") from error
    return Amphista(config) if isinstance(config, AmphistaConfig) else Medusa(config)


def new_drafter(
    kind: str, target: Target, seed: int = 0, draft_vocab: Tensor | None = None, **sizes: Any
) -> Drafter:
    """An untrained drafter for a target, in its dtype and on its device; `sizes` override the defaults.

    `draft_vocab`: ascending ids of the tokens that heads score; None: all.
    """
    config = target.config
    defaults: dict[str, Any] = {"hidden_size": config.hidden_size, "vocab_size": config.vocab_size}
    if kind == "amphista":
        defaults |= _attention_sizes(config)
    if draft_vocab is not None:
        sizes["draft_vocab_size"] = len(draft_vocab)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drafter = build_drafter(kind, defaults | sizes).to(target.device, target.dtype)
    if draft_vocab is not None:
        drafter.assign_draft_ids(draft_vocab)
    check_draft_ids(drafter)
    drafter.start_from(target)
    return drafter


def save_drafter(
    drafter: Drafter, directory: str | Path, fingerprint: str, provenance: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write a drafter for the target of this fingerprint; returns the manifest.

    Each file replaces its forerunner at once, the manifest last. `provenance` is any JSON.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    payload = save({name: tensor.contiguous() for name, tensor in _stored(drafter).items()})
    manifest = {
        "schema": SCHEMA_VERSION,
        "kind": drafter.kind,
        "config": asdict(drafter.config),
        "target": fingerprint,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "bytes": len(payload),
        "provenance": provenance or {},
    }
    _replace(directory / WEIGHTS_FILE, payload)
    _replace(directory / MANIFEST_FILE, json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n")
    return manifest


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of a drafter directory. Raises ArtifactError when it can't be used."""
    path = Path(directory) / MANIFEST_FILE
    manifest = read_object(path)
    types = {"schema": int, "kind": str, "config": dict, "target": str, "sha256": str, "bytes": int}
    for name, kind in types.items():
        if not isinstance(manifest.get(name), kind):
            raise ArtifactError(f"{path}: {name} is missing or not of type {kind.__name__}")
    if manifest["schema"] not in (SCHEMA_VERSION, SCHEMA_VERSION - 1):
        raise ArtifactError(
            f"{path}: schema {manifest['schema']} is unknown, this version reads {SCHEMA_VERSION}"
        )
    return manifest


def load_drafter(
    directory: str | Path, target: Target | None = None, expected_fingerprint: str | None = None
) -> Drafter:
    """Read and check a drafter; with a target also bind it, in its dtype and on its device.

    Raises ArtifactError with the reason when files are missing, truncated or corrupt, weights are not finite
    or of other shapes, or the drafter is for another target. Nothing is executed or unpickled.
    """
    manifest = read_manifest(directory)
    if expected_fingerprint is not None and manifest["target"] != expected_fingerprint:
        raise ArtifactError(f"the drafter is for target {manifest['target']}, not for {expected_fingerprint}")
    weights = _read_weights(Path(directory) / WEIGHTS_FILE, manifest)
    drafter = build_drafter(manifest["kind"], manifest["config"])
    try:
        drafter.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactError(f"weights and configuration don't fit: {error}") from error
    check_draft_ids(drafter)
    drafter.requires_grad_(False).eval()
    drafter.digest = manifest["sha256"]
    if target is not None:
        drafter.to(target.device, target.dtype).bind(target)
    return drafter


def base_digest(drafter: Drafter) -> str:
    """What adapters call the drafter that they belong to: its file's checksum, else its weights'."""
    return drafter.digest or weights_digest(drafter)


def weights_digest(drafter: Drafter) -> str:
    """SHA-256 of the weights as `save_drafter` would store them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_stored(drafter).items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _stored(drafter: Drafter) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu().bfloat16() if tensor.is_floating_point() else tensor.detach().cpu()
        for name, tensor in drafter.state_dict().items()
    }


def _read_weights(path: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path.name} is missing in {path.parent}") from None
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error}") from error
    if len(payload) != manifest["bytes"]:
        raise ArtifactError(f"{path} is truncated: {len(payload)} bytes of {manifest['bytes']}")
    if hashlib.sha256(payload).hexdigest() != manifest["sha256"]:
        raise ArtifactError(f"{path} is corrupt: its checksum is not the manifest's")
    try:
        weights = load(payload)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} is not a safetensors file: {error}") from error
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{path}: {name} holds values that are not finite")
    return weights


def _attention_sizes(config: TargetConfig) -> dict[str, Any]:
    """As many attention heads as the target has, where they divide the hidden size into even parts."""
    heads = config.num_heads if config.hidden_size % (2 * config.num_heads) == 0 else 1
    return {
        "attention_heads": heads,
        "intermediate_size": config.intermediate_size,
        "max_positions": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "norm_eps": config.rms_norm_eps,
    }


def _replace(path: Path, payload: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
