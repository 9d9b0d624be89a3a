from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from online_draft.errors import ArtifactError
from online_draft.models.artifact import (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    build_drafter,
    load_drafter,
    new_drafter,
    read_manifest,
    save_drafter,
    weights_digest,
)
from online_draft.models.config import TargetConfig
from online_draft.models.drafter import Drafter
from online_draft.models.loading import random_target

TARGET = random_target(TargetConfig.tiny("llama", False, 40))


VARIANTS: list[dict[str, Any]] = [
    {"stages": 0, "block_layers": 0},
    {"stages": 1, "markov_rank": 0, "num_heads": 8},
    {"stages": 2, "sources": (2, 1, 0), "block_layers": 2},
    {"block_context": 5},
    {"feature_layers": (1, 2), "markov_rank": 4},
    {"block_context": 8, "feature_layers": (1,)},
]


def make(kind: str = "amphista", **sizes: Any) -> Drafter:
    torch.manual_seed(0)
    drafter = new_drafter(kind, TARGET, **{"window": 8, "num_heads": 3, **sizes})
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.normal_()
    return drafter


def edit(directory: Path, **changes: object) -> None:
    manifest = json.loads((directory / MANIFEST_FILE).read_text())
    (directory / MANIFEST_FILE).write_text(json.dumps(manifest | changes))


def flip(path: Path) -> None:
    payload = bytearray(path.read_bytes())
    payload[-5] ^= 0x10
    path.write_bytes(payload)


@pytest.mark.parametrize("kind", ["amphista", "medusa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_drafter_comes_back_rounded_to_bfloat16(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    drafter = make(kind)
    save_drafter(drafter, tmp_path, "target-1", {"steps": 7})
    target = random_target(TARGET.config, dtype=dtype)
    again = load_drafter(tmp_path, target, "target-1")
    assert again.config == drafter.config
    assert not again.training
    weights = again.state_dict()
    for name, tensor in drafter.state_dict().items():
        assert weights[name].dtype == dtype
        assert torch.equal(weights[name], tensor.bfloat16().to(dtype))
    assert weights_digest(again) == weights_digest(drafter)
    assert read_manifest(tmp_path)["provenance"] == {"steps": 7}
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST_FILE, WEIGHTS_FILE]


@pytest.mark.parametrize("sizes", VARIANTS, ids=lambda sizes: " ".join(sizes))
def test_every_variant_comes_back_with_its_sizes_and_its_logits(
    sizes: dict[str, Any], tmp_path: Path
) -> None:
    drafter = make(**sizes)
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.copy_(parameter.bfloat16())
    save_drafter(drafter, tmp_path, "target-1")
    again = load_drafter(tmp_path, TARGET, "target-1")
    assert again.config == drafter.config
    assert again.state_dict().keys() == drafter.state_dict().keys()
    tokens, lengths = torch.randint(0, 40, (2, 12)), torch.tensor([12, 12])
    anchors, parents = torch.tensor([[3, 11], [0, 7]]), torch.randint(0, 40, (2, 2, drafter.num_heads))
    with torch.no_grad():
        hidden = TARGET.prefill_hidden(tokens, lengths, drafter.feature_layers)
        first, second = (d.head_logits(hidden, tokens, anchors, parents) for d in (drafter, again))
    assert torch.equal(first, second)


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    drafter = make()
    save_drafter(drafter, tmp_path, "target-1")
    with torch.no_grad():
        next(drafter.parameters()).zero_()
    save_drafter(drafter, tmp_path, "target-1")
    assert weights_digest(load_drafter(tmp_path, TARGET)) == weights_digest(drafter)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda d: (d / MANIFEST_FILE).unlink(), "manifest.json is missing"),
    "manifest not JSON": (lambda d: (d / MANIFEST_FILE).write_text("{"), "can't be read"),
    "manifest a list": (lambda d: (d / MANIFEST_FILE).write_text("[]"), "not a JSON object"),
    "a field missing": (lambda d: edit(d, sha256=None), "sha256 is missing"),
    "unknown schema": (lambda d: edit(d, schema=99), "schema 99 is unknown"),
    "unknown kind": (lambda d: edit(d, kind="eagle"), "kind 'eagle' is not one of amphista, medusa"),
    "unknown size": (lambda d: edit(d, config={"depth": 3}), "has no size depth"),
    "size missing": (lambda d: edit(d, config={}), "can't have these sizes"),
    "another size": (
        lambda d: edit(d, config=json.loads((d / MANIFEST_FILE).read_text())["config"] | {"block_layers": 2}),
        "don't fit",
    ),
    "another target": (lambda d: edit(d, target="target-2"), "is for target target-2, not for target-1"),
    "no weights": (lambda d: (d / WEIGHTS_FILE).unlink(), "model.safetensors is missing"),
    "truncated": (
        lambda d: (d / WEIGHTS_FILE).write_bytes((d / WEIGHTS_FILE).read_bytes()[:-100]),
        "truncated",
    ),
    "a bit flipped": (lambda d: flip(d / WEIGHTS_FILE), "corrupt"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_drafter_is_refused_with_its_reason(damage: str, tmp_path: Path) -> None:
    save_drafter(make(), tmp_path, "target-1")
    spoil, reason = DAMAGE[damage]
    spoil(tmp_path)
    with pytest.raises(ArtifactError, match=reason):
        load_drafter(tmp_path, TARGET, "target-1")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    drafter = make()
    with torch.no_grad():
        next(drafter.parameters()).view(-1)[3] = value
    save_drafter(drafter, tmp_path, "target-1")
    with pytest.raises(ArtifactError, match="not finite"):
        load_drafter(tmp_path, TARGET, "target-1")


def test_a_target_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    save_drafter(make(), tmp_path, "target-1")
    other = random_target(TargetConfig.tiny("llama", False, 50))
    with pytest.raises(ArtifactError, match="vocabulary x hidden size"):
        load_drafter(tmp_path, other)


def test_a_new_drafter_is_fixed_by_its_seed() -> None:
    assert weights_digest(new_drafter("amphista", TARGET, seed=3)) == weights_digest(
        new_drafter("amphista", TARGET, seed=3)
    )
    assert weights_digest(new_drafter("amphista", TARGET, seed=3)) != weights_digest(
        new_drafter("amphista", TARGET, seed=4)
    )


def test_a_wrong_size_is_refused_by_name() -> None:
    sizes = {"hidden_size": 16, "vocab_size": 40, "attention_heads": 2, "stages": 7}
    with pytest.raises(ArtifactError, match="stages"):
        build_drafter("amphista", sizes)
