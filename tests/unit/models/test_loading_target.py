"""From files to a target: what loads, what is refused with which words, what the fingerprint depends on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from online_draft.errors import TargetError
from online_draft.models.loading import load_target, resolve_target

WORDS = ["<unk>", "<eos>", "<turn>", "a", "b", "c"]


def save_model(directory: Path, eos_token: str = "<eos>", **changes: Any) -> transformers.PreTrainedModel:
    """A complete tiny Llama with a word tokenizer, as transformers saves it."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 16,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes}))
    model.save_pretrained(directory)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token=eos_token, unk_token="<unk>"
    )
    fast.save_pretrained(directory)
    return model


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@torch.no_grad()
def test_a_directory_loads_with_tokenizer_name_and_fingerprint(tmp_path: Path) -> None:
    model = save_model(tmp_path / "tiny")
    loaded = load_target(tmp_path / "tiny")
    assert loaded.name == "tiny"
    assert loaded.config is loaded.target.config
    assert re.fullmatch(r"llama-[0-9a-f]{16}-[0-9a-f]{8}", loaded.fingerprint)
    ids = loaded.tokenizer.encode("a c b")
    assert ids == [3, 5, 4]
    hidden = loaded.target.prefill_hidden(torch.tensor([ids]), torch.tensor([3]))
    torch.testing.assert_close(
        loaded.target.logits(hidden), model(torch.tensor([ids])).logits, rtol=0, atol=1e-5
    )


def test_sharded_weights_load_and_keep_the_fingerprint(tmp_path: Path) -> None:
    model = save_model(tmp_path / "one")
    save_model(tmp_path / "many")
    (tmp_path / "many" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "many", max_shard_size="4KB")
    assert (tmp_path / "many" / "model.safetensors.index.json").is_file()
    one, many = load_target(tmp_path / "one"), load_target(str(tmp_path / "many"))
    assert one.fingerprint == many.fingerprint
    for left, right in zip(one.target.parameters(), many.target.parameters(), strict=True):
        assert torch.equal(left, right)
    next((tmp_path / "many").glob("model-00002*")).unlink()
    with pytest.raises(TargetError, match=r"lacks model-00002.*which model\.safetensors\.index\.json lists"):
        load_target(tmp_path / "many")


def test_the_fingerprint_binds_weights_shape_and_tokenizer_but_not_the_serving_dtype(tmp_path: Path) -> None:
    save_model(tmp_path)
    prints = [load_target(tmp_path).fingerprint, load_target(tmp_path, dtype=torch.float64).fingerprint]
    assert prints[0] == prints[1]
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][0] += 1
    save_file(weights, file)
    prints.append(load_target(tmp_path).fingerprint)
    edit_json(tmp_path / "config.json", rms_norm_eps=1e-4)
    prints.append(load_target(tmp_path).fingerprint)
    edit_json(tmp_path / "tokenizer.json", version="1.0 ")
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"1.0 "', '"1.0"') + "\n")
    prints.append(load_target(tmp_path).fingerprint)
    assert len(set(prints[1:])) == 4


def test_end_of_sequence_ids_come_from_generation_defaults_and_the_tokenizer(tmp_path: Path) -> None:
    save_model(tmp_path, eos_token="<turn>")
    assert load_target(tmp_path).config.eos_token_ids == (1, 2)
    edit_json(tmp_path / "generation_config.json", eos_token_id=[5, 2])
    assert load_target(tmp_path).config.eos_token_ids == (5, 2)
    (tmp_path / "generation_config.json").unlink()
    assert load_target(tmp_path).config.eos_token_ids == (1, 2)


def test_bfloat16_weights_load_into_float32_exactly(tmp_path: Path) -> None:
    save_model(tmp_path)
    file = tmp_path / "model.safetensors"
    halves = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(halves, file)
    target = load_target(tmp_path).target
    assert target.dtype == torch.float32
    assert torch.equal(target.embedding_VF, halves["model.embed_tokens.weight"].float())


def _drop(weights: dict[str, torch.Tensor]) -> None:
    del weights["model.layers.1.mlp.up_proj.weight"]


def _add(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.1.mlp.router.weight"] = torch.zeros(2)


def _narrow(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"] = torch.zeros(3)


def _quantize(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"] = torch.zeros(16, dtype=torch.int8)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_drop, r"layers\.1\.mlp\.up_proj\.weight is missing"),
        (_add, r"router\.weight is not part of a llama model"),
        (_narrow, r"norm\.weight has shape \[3\], not \[16\]"),
        (_quantize, r"norm\.weight has dtype torch\.int8"),
    ],
)
def test_wrong_weights_are_refused_by_name(tmp_path: Path, damage: Any, words: str) -> None:
    save_model(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    damage(weights)
    save_file(weights, file)
    with pytest.raises(TargetError, match=rf"--target .*{words}"):
        load_target(tmp_path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TargetError, match="damaged"):
        load_target(tmp_path)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(TargetError, match=r"pytorch_model\.bin is a pickle.*convert it to safetensors"):
        load_target(tmp_path)


def test_other_architectures_are_refused_with_the_list(tmp_path: Path) -> None:
    save_model(tmp_path)
    for model_type in ("gpt2", "something_new"):
        edit_json(tmp_path / "config.json", model_type=model_type)
        with pytest.raises(TargetError, match=rf"{model_type}.*supported are.*Llama.*Mistral.*Qwen2.*Qwen3"):
            load_target(tmp_path)


def test_an_unreadable_configuration_or_tokenizer_is_named(tmp_path: Path) -> None:
    save_model(tmp_path)
    tokenizer = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TargetError, match="tokenizer"):
        load_target(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(tokenizer)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(TargetError, match=r"config\.json must hold a JSON object"):
        load_target(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(TargetError, match=r"config\.json can't be read"):
        load_target(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/model", "a/b/c", Path("nowhere")])
def test_a_missing_directory_is_no_hub_name(name: str | Path) -> None:
    with pytest.raises(TargetError, match=r"--target .*no such directory"):
        resolve_target(name)


def test_a_hub_name_is_downloaded_without_pickles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_target("someone/small-llama") == tmp_path
    assert asked["name"] == "someone/small-llama"
    assert "*.safetensors" in asked["patterns"]
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["patterns"])


@pytest.mark.parametrize(
    "error",
    [
        huggingface_hub.errors.OfflineModeIsEnabled("offline"),
        huggingface_hub.errors.LocalEntryNotFoundError("not in the cache"),
        huggingface_hub.errors.HFValidationError("bad name"),
        ConnectionError("no route"),
    ],
)
def test_an_unreachable_hub_is_a_target_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(name: str, allow_patterns: list[str]) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(TargetError, match=r"--target someone/model: .*'embedded', a directory"):
        load_target("someone/model")
