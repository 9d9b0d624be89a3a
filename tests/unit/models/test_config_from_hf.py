"""Reading transformers' configurations: what is taken over, what is refused and how it is said."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from online_draft.errors import TargetError
from online_draft.models.config import ARCHITECTURES, TargetConfig, token_ids
from online_draft.models.rope import RopeScaling

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}


def test_llama3_rope_scaling_is_read() -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = TargetConfig.from_hf(
        transformers.LlamaConfig(**SIZES, rope_parameters=rope, eos_token_id=[5, 6])
    )
    assert config.rope_theta == 500000.0
    assert config.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 64)
    assert config.eos_token_ids == (5, 6)
    assert config.head_dim == 8


def test_biases_and_norms_follow_the_family() -> None:
    qwen2 = TargetConfig.from_hf(transformers.Qwen2Config(**SIZES))
    assert (qwen2.attention_bias, qwen2.output_bias, qwen2.qk_norm) == (True, False, False)
    qwen3 = TargetConfig.from_hf(transformers.Qwen3Config(**SIZES, head_dim=16))
    assert (qwen3.attention_bias, qwen3.output_bias, qwen3.qk_norm, qwen3.head_dim) == (
        False,
        False,
        True,
        16,
    )
    llama = TargetConfig.from_hf(transformers.LlamaConfig(**SIZES, attention_bias=True))
    assert (llama.attention_bias, llama.output_bias, llama.qk_norm) == (True, True, False)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.GPT2Config(), "'gpt2'"),
        (transformers.GemmaConfig(**SIZES), "'gemma'"),
        (transformers.MistralConfig(**SIZES, sliding_window=64), "sliding_window 64"),
        (
            transformers.Qwen2Config(
                **SIZES, use_sliding_window=True, sliding_window=64, max_window_layers=0
            ),
            "sliding_window 64",
        ),
        (transformers.LlamaConfig(**SIZES, hidden_act="gelu"), "'gelu'"),
        (transformers.LlamaConfig(**SIZES, mlp_bias=True), "mlp_bias"),
        (
            transformers.LlamaConfig(
                **SIZES, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
            ),
            "'yarn'",
        ),
        (
            transformers.LlamaConfig(**SIZES, architectures=["LlamaForSequenceClassification"]),
            "LlamaForSequenceClassification",
        ),
    ],
)
def test_what_is_not_supported_is_refused_with_the_list_of_what_is(config: Any, reason: str) -> None:
    with pytest.raises(TargetError, match=reason) as caught:
        TargetConfig.from_hf(config)
    for family in ("Llama", "Mistral", "Qwen2", "Qwen3"):
        assert family in str(caught.value)


def test_a_sliding_window_that_never_bites_is_accepted() -> None:
    config = TargetConfig.from_hf(transformers.MistralConfig(**SIZES, sliding_window=128))
    assert config.max_position_embeddings == 128


def test_sizes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(TargetError, match="num_kv_heads"):
        TargetConfig.tiny(num_kv_heads=3)
    with pytest.raises(TargetError, match="head_dim"):
        TargetConfig.tiny(head_dim=7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiny_configurations_show_every_trait_of_their_family(architecture: Any) -> None:
    config = TargetConfig.tiny(architecture, tie=True, num_layers=1)
    assert config.tie_word_embeddings
    assert config.num_layers == 1
    assert config.num_heads * config.head_dim != config.hidden_size
    assert config.num_heads != config.num_kv_heads
    assert config.attention_bias == (architecture == "qwen2")
    assert config.qk_norm == (architecture == "qwen3")


def test_eos_ids_may_be_one_several_or_none() -> None:
    assert token_ids(None) == ()
    assert token_ids(3) == (3,)
    assert token_ids([3, 4]) == (3, 4)
