"""The part of a target that the learner holds where replicas make the features."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from online_draft.errors import TargetError
from online_draft.models.embedded import TARGET_DIR
from online_draft.models.head import TargetHead
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.models.replacement import check_replacement, replace_weights


@pytest.fixture(scope="module")
def whole() -> LoadedTarget:
    return load_target("embedded")


@pytest.fixture
def head(whole: LoadedTarget) -> LoadedTarget:
    return load_target("embedded", make=partial(TargetHead, whole.target))


@torch.no_grad()
def test_it_is_that_target_without_its_layers(whole: LoadedTarget, head: LoadedTarget) -> None:
    assert (head.fingerprint, head.config) == (whole.fingerprint, whole.config)
    assert head.target.config.num_layers == len(whole.target.decoder_layers) > 0
    held = dict(head.target.named_parameters())
    assert set(held) <= {"embedding", "norm", "lm_head"}
    assert head.target.decoder_layers == [] and head.target.frozen().layers == []
    for name, weight in held.items():
        assert torch.equal(weight, whole.target.get_parameter(name))
    tokens, lengths = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([4, 2])
    hidden_BTF = head.target.prefill_hidden(tokens, lengths)
    assert torch.equal(hidden_BTF, whole.target.prefill_hidden(tokens, lengths))
    assert torch.equal(head.target.logits(hidden_BTF[0]), whole.target.logits(hidden_BTF[0]))


def test_features_come_in_its_own_numbers(whole: LoadedTarget) -> None:
    half = load_target("embedded", dtype=torch.bfloat16, make=partial(TargetHead, whole.target)).target
    hidden_BTF = half.prefill_hidden(torch.tensor([[5, 6, 7]]), torch.tensor([3]))
    assert hidden_BTF.dtype == torch.bfloat16


def test_it_takes_an_update_of_the_target(head: LoadedTarget, tmp_path: Path) -> None:
    shutil.copytree(TARGET_DIR, tmp_path / "new")
    weights = load_file(tmp_path / "new" / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"] += 0.5
    weights["model.embed_tokens.weight"] += 0.5
    save_file(weights, tmp_path / "new" / "model.safetensors", {"format": "pt"})
    fingerprint = check_replacement(head, tmp_path / "new")
    assert fingerprint == load_target(tmp_path / "new").fingerprint != head.fingerprint
    replaced = replace_weights(head, tmp_path / "new", fingerprint)
    assert replaced.target is head.target and replaced.fingerprint == fingerprint
    assert torch.equal(head.target.embedding, weights["model.embed_tokens.weight"].float())


def test_a_file_without_a_layer_is_refused(whole: LoadedTarget, tmp_path: Path) -> None:
    shutil.copytree(TARGET_DIR, tmp_path / "less")
    weights = load_file(tmp_path / "less" / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, tmp_path / "less" / "model.safetensors", {"format": "pt"})
    with pytest.raises(TargetError, match=r"model\.layers\.1\.mlp\.down_proj\.weight is missing"):
        load_target(tmp_path / "less", make=partial(TargetHead, whole.target))


def test_it_can_not_decode(head: LoadedTarget) -> None:
    with pytest.raises(TypeError, match="can't decode"):
        head.target(None, None)
