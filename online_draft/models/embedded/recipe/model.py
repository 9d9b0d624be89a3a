"""A compact Llama for training, with fused projections; weights export to LlamaForCausalLM one to one.

Shapes: B sequences, T positions, D hidden size, H query heads, G key-value heads, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; the defaults are the shipped target (about 5 million parameters)."""

    vocab_size: int = 2048
    hidden_size: int = 192
    layers: int = 12
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    intermediate_size: int = 512
    max_positions: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def as_dict(self) -> dict[str, float]:
        """Plain values by field name, for JSON."""
        return asdict(self)


def _rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    normed: Tensor = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight.to(x.dtype)


def _rotate(x_BHTd: Tensor, cos_Td: Tensor, sin_Td: Tensor) -> Tensor:
    left, right = x_BHTd.chunk(2, dim=-1)
    return x_BHTd * cos_Td + torch.cat((-right, left), dim=-1) * sin_Td


class Block(nn.Module):
    """One pre-norm decoder layer: grouped-query attention and a SwiGLU feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        s = shape
        self.shape = shape
        self.attn_norm = nn.Parameter(torch.ones(s.hidden_size))
        self.mlp_norm = nn.Parameter(torch.ones(s.hidden_size))
        self.qkv = nn.Linear(s.hidden_size, (s.heads + 2 * s.kv_heads) * s.head_dim, bias=False)
        self.out = nn.Linear(s.heads * s.head_dim, s.hidden_size, bias=False)
        self.gate_up = nn.Linear(s.hidden_size, 2 * s.intermediate_size, bias=False)
        self.down = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, cos_Td: Tensor, sin_Td: Tensor, mask_B1TT: Tensor | None) -> Tensor:
        s = self.shape
        batch, length, _ = x_BTD.shape
        qkv = self.qkv(_rms(x_BTD, self.attn_norm, s.norm_eps))
        qkv = qkv.view(batch, length, s.heads + 2 * s.kv_heads, s.head_dim).transpose(1, 2)
        query_BHTd = _rotate(qkv[:, : s.heads], cos_Td, sin_Td)
        key_BGTd = _rotate(qkv[:, s.heads : s.heads + s.kv_heads], cos_Td, sin_Td)
        value_BGTd = qkv[:, s.heads + s.kv_heads :]
        repeats = s.heads // s.kv_heads
        mixed = functional.scaled_dot_product_attention(
            query_BHTd,
            key_BGTd.repeat_interleave(repeats, dim=1),
            value_BGTd.repeat_interleave(repeats, dim=1),
            attn_mask=mask_B1TT,
            is_causal=mask_B1TT is None,
        )
        x_BTD = x_BTD + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(_rms(x_BTD, self.mlp_norm, s.norm_eps)).chunk(2, dim=-1)
        added: Tensor = self.down(functional.silu(gate) * up)
        return x_BTD + added


class TinyLlama(nn.Module):
    """The whole network with tied embeddings; `forward` gives per-token losses, `logits` the distribution."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))
        steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        angles = torch.outer(torch.arange(shape.max_positions).float(), shape.rope_theta**-steps)
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embed.weight, std=0.02)
        for name, parameter in self.blocks.named_parameters():
            if parameter.ndim == 2:
                shrink = (2 * self.shape.layers) ** -0.5 if "out" in name or "down" in name else 1.0
                nn.init.normal_(parameter, std=shrink * parameter.shape[1] ** -0.5 * 0.5)

    def hidden(self, ids_BT: Tensor, dtype: torch.dtype, documents_BT: Tensor | None = None) -> Tensor:
        """Last hidden state after the final norm, [B, T, D]; given numbers, no document sees another."""
        length = ids_BT.shape[1]
        cos, sin = self.cos[:length].to(dtype), self.sin[:length].to(dtype)
        mask_B1TT: Tensor | None = None
        if documents_BT is not None:
            same = documents_BT[:, None, :, None] == documents_BT[:, None, None, :]
            order = torch.arange(length, device=ids_BT.device)
            allowed = same & (order[:, None] >= order[None, :])
            mask_B1TT = torch.where(allowed, 0.0, -1e9).to(dtype)
        x_BTD = functional.embedding(ids_BT, self.embed.weight).to(dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, cos, sin, mask_B1TT)
        return _rms(x_BTD, self.norm, self.shape.norm_eps)

    def logits(self, ids_BT: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Next-token logits in float32, [B, T, V]."""
        return functional.linear(self.hidden(ids_BT, dtype), self.embed.weight.to(dtype)).float()

    def forward(
        self, ids_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype, documents_BT: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy in nats of every target token given the ids before it, [B, T]."""
        logits = functional.linear(self.hidden(ids_BT, dtype, documents_BT), self.embed.weight.to(dtype))
        losses = functional.cross_entropy(
            logits.view(-1, logits.shape[-1]).float(), targets_BT.reshape(-1), reduction="none"
        )
        return losses.view_as(targets_BT)
