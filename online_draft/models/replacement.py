"""Other weights for a target that is loaded: checked whole before one byte changes, then copied in place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from online_draft.errors import ConfigError, TargetError
from online_draft.models.fingerprint import target_fingerprint, tensor_digest
from online_draft.models.loading import LoadedTarget, read_config, tokenizer_bytes
from online_draft.models.weights import WEIGHTS_INDEX, copy_weights, named_destinations, weight_files

_NO_RULES = ("version", "truncation", "padding", "post_processor")
"""Of a `tokenizer.json`: nothing that decides which text a token is."""
_BESIDE_WEIGHTS = (".json", ".jinja", ".txt", ".model")


def check_replacement(loaded: LoadedTarget, path: Path) -> str:
    """The fingerprint that a loaded target would have with the weights in `path`. Reads all of them once.

    Architecture, sizes and tokenizer must be the loaded one's (a directory without a tokenizer means it).
    ConfigError names what differs: `path`, `config.<field>`, `tokenizer`, or `weights.<name>` with a wrong
    shape, type or a value that isn't finite. Nothing is executed or unpickled.
    """
    if not path.is_dir():
        raise ConfigError("path", f"{path} is not a directory that this machine can read")
    try:
        config, files = read_config(path), weight_files(path)
    except TargetError as error:
        raise ConfigError("path", str(error)) from error
    for entry in fields(config):
        ours, theirs = getattr(loaded.config, entry.name), getattr(config, entry.name)
        # The end of an answer is the loaded target's: it comes from the generation defaults, too.
        if entry.name != "eos_token_ids" and ours != theirs:
            raise ConfigError(f"config.{entry.name}", f"must be {ours!r} as before, is {theirs!r}")
    if not _same_tokenizer(tokenizer_bytes(path), tokenizer_bytes(loaded.path)):
        raise ConfigError("tokenizer", f"{path} has another one than the target that is served")
    digests = {}
    shapes = {name: list(place.shape) for name, place in named_destinations(loaded.target).items()}
    for name, stored in _stored(files):
        if name not in shapes:
            if name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight":
                continue
            raise ConfigError(f"weights.{name}", "is not a weight of the target that is served")
        if list(stored.shape) != shapes[name]:
            raise ConfigError(f"weights.{name}", f"must have shape {shapes[name]}, has {list(stored.shape)}")
        if not stored.is_floating_point() or stored.dtype.itemsize < 2:
            raise ConfigError(f"weights.{name}", f"must be of 16, 32 or 64 bit floats, is {stored.dtype}")
        if not bool(torch.isfinite(stored).all()):
            raise ConfigError(f"weights.{name}", "must be finite")
        digests[name] = tensor_digest(stored)
    for name in shapes:
        if name not in digests:
            raise ConfigError(f"weights.{name}", "is missing")
    return target_fingerprint(loaded.config, digests, tokenizer_bytes(loaded.path))


def replacement_files(loaded: LoadedTarget, path: Path) -> list[Path]:
    """What makes a whole target of the weights in `path`: those, and everything else of the loaded one's."""
    index = path / WEIGHTS_INDEX
    others = (
        file
        for file in sorted(loaded.path.iterdir())
        if file.suffix in _BESIDE_WEIGHTS and ".safetensors." not in file.name and file.name != "target.json"
    )
    return [*weight_files(path), *([index] if index.is_file() else []), *others]


def replace_weights(loaded: LoadedTarget, path: Path, fingerprint: str) -> LoadedTarget:
    """Copy the weights in `path` over the loaded target's, which stays the same object.

    Not while anything computes with it; what was prepared of it has to be made anew. TargetError when they
    aren't those of `fingerprint`: then the target must not be used any more.
    """
    digests = copy_weights(loaded.target, weight_files(path))
    found = target_fingerprint(loaded.config, digests, tokenizer_bytes(loaded.path))
    if found != fingerprint:
        raise TargetError(f"{path} holds {found}, not {fingerprint}")
    return replace(loaded, fingerprint=fingerprint, path=path)


def _same_tokenizer(theirs: bytes, ours: bytes) -> bool:
    """Whether two tokenizer files split text alike; the same one saved again may have other bytes."""
    if not theirs or theirs == ours:
        return True
    try:
        return _rules(json.loads(theirs)) == _rules(json.loads(ours))
    except (ValueError, TypeError, AttributeError):
        return False


def _rules(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """What a `tokenizer.json` says about text, in one form."""
    rules = {name: part for name, part in tokenizer.items() if name not in _NO_RULES}
    merges = (rules.get("model") or {}).get("merges")
    if merges is not None:
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
        rules["model"] = {**rules["model"], "merges": pairs}
    return rules


def _stored(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    yield name, tensors.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ConfigError("path", f"{file} is damaged or no safetensors file: {error}") from error
