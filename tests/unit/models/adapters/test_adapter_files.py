"""An adapter's files are peft's and a card; whatever is wrong with them is said before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from online_draft.errors import ArtifactError
from online_draft.models.adapters.adapter import AdapterCard
from online_draft.models.adapters.files import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    read_adapter,
    write_card,
)

CARD = AdapterCard("sql", "amphista", "llama-1", "digest", "v000001", {"tau": 2.0}, {"made_by": "a test"})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "use_rslora": False}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name in ("join", "residual.0"):
        weights[f"base_model.model.{name}.lora_A.weight"] = torch.randn(2, 8, generator=generator)
        weights[f"base_model.model.{name}.lora_B.weight"] = torch.randn(4, 2, generator=generator)
    save_file(weights, tmp_path / WEIGHTS_FILE)
    write_card(tmp_path, CARD)
    return tmp_path


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_are_scaled_as_peft_scales_them(directory: Path) -> None:
    adapter = read_adapter(directory)
    stored = load_file(directory / WEIGHTS_FILE)
    assert adapter.card == CARD and adapter.rank == 2
    assert list(adapter.weights) == ["join", "residual.0"]
    assert torch.equal(adapter.weights["join"].down_RI, stored["base_model.model.join.lora_A.weight"])
    assert torch.equal(adapter.weights["join"].up_OR, 3 * stored["base_model.model.join.lora_B.weight"])
    change(directory / CONFIG_FILE, use_rslora=True)
    rooted = read_adapter(directory).weights["join"].up_OR
    torch.testing.assert_close(rooted, 6 / 2**0.5 * stored["base_model.model.join.lora_B.weight"])


@pytest.mark.parametrize("name", [CARD_FILE, CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        read_adapter(directory)


def test_damage_shows(directory: Path) -> None:
    path = directory / WEIGHTS_FILE
    payload = path.read_bytes()
    path.write_bytes(payload[:-1])
    with pytest.raises(ArtifactError, match="truncated"):
        read_adapter(directory)
    path.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="corrupt"):
        read_adapter(directory)
    path.write_bytes(payload)
    (directory / CARD_FILE).write_text("{")
    with pytest.raises(ArtifactError, match="can't be read"):
        read_adapter(directory)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type must be LORA"),
        ({"bias": "all"}, "bias must be none"),
        ({"use_dora": True}, "use_dora must not be set"),
        ({"rank_pattern": {"join": 4}}, "rank_pattern must not be set"),
        ({"target_parameters": ["residual_KFF"]}, "target_parameters must not be set"),
        ({"r": 0}, "r must be a positive number"),
        ({"lora_alpha": None}, "lora_alpha"),
    ],
)
def test_another_kind_of_adapter_is_refused(directory: Path, changes: dict[str, Any], reason: str) -> None:
    change(directory / CONFIG_FILE, **changes)
    with pytest.raises(ArtifactError, match=reason):
        read_adapter(directory)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segment": ""}, "segment is missing"),
        ({"base_digest": 3}, "base_digest is missing"),
        ({"schema": 99}, "schema 99 is unknown"),
    ],
)
def test_a_card_without_what_it_takes_is_refused(
    directory: Path, changes: dict[str, Any], reason: str
) -> None:
    change(directory / CARD_FILE, **changes)
    with pytest.raises(ArtifactError, match=reason):
        read_adapter(directory)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda w: w | {"base_model.model.join.lora_magnitude_vector": torch.ones(4)}, "is not the A or B"),
        (lambda w: {k: v for k, v in w.items() if not k.endswith("join.lora_B.weight")}, "missing for join"),
        (lambda w: w | {"base_model.model.join.lora_A.weight": torch.full((2, 8), float("nan"))}, "finite"),
        (lambda w: w | {"base_model.model.join.lora_A.weight": torch.ones(2, 8, 1)}, "not a matrix"),
        (lambda w: {}, "missing for every layer"),
    ],
)
def test_weights_that_make_no_adapter_are_refused(
    directory: Path, damage: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], reason: str
) -> None:
    save_file(damage(load_file(directory / WEIGHTS_FILE)), directory / WEIGHTS_FILE)
    write_card(directory, CARD)
    with pytest.raises(ArtifactError, match=reason):
        read_adapter(directory)
