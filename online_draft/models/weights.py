"""A target's weights on disk: safetensors, one file or sharded, under transformers' names.

The fused matrices are filled piece by piece, so that loading needs no second copy of the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from online_draft.errors import TargetError
from online_draft.models.fingerprint import tensor_digest
from online_draft.models.target import Target, TargetLayer

_SINGLE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model directory. TargetError when there are none or a shard is missing."""
    if (path / WEIGHTS_INDEX).is_file():
        try:
            index = json.loads((path / WEIGHTS_INDEX).read_text(encoding="utf-8"))
            files = [path / name for name in sorted(set(index["weight_map"].values()))]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise TargetError(f"{path / WEIGHTS_INDEX} can't be read: {error}") from error
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise TargetError(f"{path} lacks {', '.join(missing)}, which {WEIGHTS_INDEX} lists")
        return files
    if (path / _SINGLE).is_file():
        return [path / _SINGLE]
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
    found = f"; {pickled[0]} is a pickle, which is never read: convert it to safetensors" if pickled else ""
    raise TargetError(f"{path} has no {_SINGLE} and no {WEIGHTS_INDEX}{found}")


def named_destinations(target: Target) -> dict[str, Tensor]:
    """Where each stored weight belongs: transformers' name -> the parameter, or its piece of a fused one."""
    places: dict[str, Tensor] = {
        "model.embed_tokens.weight": target.embedding,
        "model.norm.weight": target.norm,
    }
    if target.lm_head is not None:
        places["lm_head.weight"] = target.lm_head
    for index, layer in enumerate(target.stored_layers):
        for name, tensor in _layer_destinations(target, layer):
            places[f"model.layers.{index}.{name}"] = tensor
    return places


def copy_weights(target: Target, files: Sequence[Path]) -> dict[str, str]:
    """Fill a target from safetensors files; returns each stored name's `tensor_digest` for the fingerprint.

    Weights are converted to the target's dtype and device. TargetError for a missing, unexpected, misshapen
    or unreadable one.
    """
    places = named_destinations(target)
    digests: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    digest = _copy_one(places, name, tensors.get_tensor(name), target)
                    if digest is not None:
                        digests[name] = digest
        except (OSError, SafetensorError) as error:
            raise TargetError(f"{file} is damaged or no safetensors file: {error}") from error
    target.thaw()
    missing = sorted(places.keys() - digests.keys())
    if missing:
        raise TargetError(f"weight {missing[0]} is missing ({len(missing)} in all)")
    return digests


def _copy_one(places: dict[str, Tensor], name: str, stored: Tensor, target: Target) -> str | None:
    place = places.get(name)
    if place is None:
        if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and target.lm_head is None):
            return None
        raise TargetError(f"weight {name} is not part of a {target.config.architecture} model")
    if place.shape != stored.shape:
        raise TargetError(f"weight {name} has shape {list(stored.shape)}, not {list(place.shape)}")
    if not stored.is_floating_point() or stored.dtype.itemsize < 2:
        raise TargetError(
            f"weight {name} has dtype {stored.dtype}; float16, bfloat16, float32, float64 are read"
        )
    with torch.no_grad():
        place.copy_(stored)
    return tensor_digest(stored)


def _layer_destinations(target: Target, layer: TargetLayer) -> list[tuple[str, Tensor]]:
    c = target.config
    split = [c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim]
    projections = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    gate, up = layer.gate_up.chunk(2)
    places: list[tuple[str, Tensor]] = [
        ("input_layernorm.weight", layer.attention_norm),
        ("self_attn.o_proj.weight", layer.output),
        ("post_attention_layernorm.weight", layer.mlp_norm),
        ("mlp.gate_proj.weight", gate),
        ("mlp.up_proj.weight", up),
        ("mlp.down_proj.weight", layer.down),
    ]
    for projection, piece in zip(projections, torch.split(layer.qkv, split), strict=True):
        places.append((f"{projection}.weight", piece))
    if layer.qkv_bias is not None:
        for projection, piece in zip(projections, torch.split(layer.qkv_bias, split), strict=True):
            places.append((f"{projection}.bias", piece))
    if layer.output_bias is not None:
        places.append(("self_attn.o_proj.bias", layer.output_bias))
    if layer.query_norm is not None and layer.key_norm is not None:
        places += [("self_attn.q_norm.weight", layer.query_norm), ("self_attn.k_norm.weight", layer.key_norm)]
    return places
