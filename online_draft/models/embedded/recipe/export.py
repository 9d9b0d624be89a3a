"""Writes the training weights as a Hugging Face LlamaForCausalLM directory, and checks that logits agree."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from online_draft.models.embedded.recipe.model import Block, Shape, TinyLlama
from online_draft.models.embedded.recipe.tokenizer import END_ID, PAD_ID


def hf_weights(model: TinyLlama, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights by LlamaForCausalLM name, fused projections split; the tied head is left out."""
    shape = model.shape
    sizes = [shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.kv_heads * shape.head_dim]
    weights = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm}
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        layer = f"model.layers.{number}"
        query, key, value = torch.split(block.qkv.weight, sizes)
        gate, up = block.gate_up.weight.chunk(2)
        weights |= {
            f"{layer}.self_attn.q_proj.weight": query,
            f"{layer}.self_attn.k_proj.weight": key,
            f"{layer}.self_attn.v_proj.weight": value,
            f"{layer}.self_attn.o_proj.weight": block.out.weight,
            f"{layer}.mlp.gate_proj.weight": gate,
            f"{layer}.mlp.up_proj.weight": up,
            f"{layer}.mlp.down_proj.weight": block.down.weight,
            f"{layer}.input_layernorm.weight": block.attn_norm,
            f"{layer}.post_attention_layernorm.weight": block.mlp_norm,
        }
    return {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in weights.items()}


def hf_config(shape: Shape, dtype: torch.dtype) -> dict[str, object]:
    """The contents of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def export(model: TinyLlama, directory: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write config.json, generation_config.json and model.safetensors (renamed into place) to a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(hf_config(model.shape, dtype), indent=2) + "\n")
    generation = {"eos_token_id": END_ID, "pad_token_id": PAD_ID, "do_sample": False, "max_new_tokens": 256}
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    partial = directory / "model.safetensors.partial"
    save_file(hf_weights(model, dtype), str(partial), metadata={"format": "pt"})
    partial.replace(directory / "model.safetensors")


@torch.no_grad()
def largest_difference(model: TinyLlama, directory: Path) -> float:
    """Largest absolute logit difference between the training network and an exported float32 directory."""
    from transformers import LlamaForCausalLM

    other = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = torch.randint(5, model.shape.vocab_size, (2, 200), generator=torch.Generator().manual_seed(0))
    ours = model.logits(ids.to(model.norm.device)).cpu()
    return float((other(ids).logits - ours).abs().max())
