"""The one decoder skeleton for all supported targets: frozen, fused, without a framework around it.

Shapes: N rows of the flat batch, B sequences, T positions, F hidden size, V vocabulary, H query heads,
G key-value heads, D head size.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from online_draft.models.attention import attend_groups, prepare_groups
from online_draft.models.config import TargetConfig
from online_draft.models.kv import KVCache
from online_draft.models.rope import RotaryEmbedding, Rotation
from online_draft.models.rows import RowBatch


class TargetLayer(nn.Module):
    """One pre-norm decoder layer: grouped-query attention, then a SwiGLU feed-forward.

    Queries, keys and values share one matrix (`qkv`, rows in this order), gate and up another. `hidden_NF` is
    changed in place: the residual additions ride on the matrix products. Weights start uninitialised.
    """

    def __init__(self, config: TargetConfig, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        c = config
        self.eps = c.rms_norm_eps
        self.heads, self.kv_heads, self.head_dim = c.num_heads, c.num_kv_heads, c.head_dim

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)

        projected = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
        self.attention_norm = weight(c.hidden_size)
        self.qkv = weight(projected, c.hidden_size)
        self.qkv_bias = weight(projected) if c.attention_bias else None
        self.query_norm = weight(c.head_dim) if c.qk_norm else None
        self.key_norm = weight(c.head_dim) if c.qk_norm else None
        self.output = weight(c.hidden_size, c.num_heads * c.head_dim)
        self.output_bias = weight(c.hidden_size) if c.output_bias else None
        self.mlp_norm = weight(c.hidden_size)
        self.gate_up = weight(2 * c.intermediate_size, c.hidden_size)
        self.down = weight(c.hidden_size, c.intermediate_size)

    def project(self, hidden_NF: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Rotated queries [N, H, D], and rotated keys with their values [N, 2, G, D]."""
        normed = functional.rms_norm(hidden_NF, self.attention_norm.shape, self.attention_norm, self.eps)
        rows_NXD = functional.linear(normed, self.qkv, self.qkv_bias).view(
            hidden_NF.shape[0], -1, self.head_dim
        )
        if self.query_norm is not None and self.key_norm is not None:
            self._normalise(rows_NXD, self.query_norm, self.key_norm)
        turned = rows_NXD[:, : self.heads + self.kv_heads]
        left, right = turned.chunk(2, dim=-1)
        cos, signed_sin = rotation
        swapped = torch.cat((right, left), dim=-1)
        turned.mul_(cos).addcmul_(swapped, signed_sin)
        pairs = rows_NXD[:, self.heads :].view(-1, 2, self.kv_heads, self.head_dim)
        return rows_NXD[:, : self.heads], pairs

    def _normalise(self, rows_NXD: Tensor, query_norm: Tensor, key_norm: Tensor) -> None:
        queries = rows_NXD[:, : self.heads]
        queries.copy_(functional.rms_norm(queries, query_norm.shape, query_norm, self.eps))
        keys = rows_NXD[:, self.heads : self.heads + self.kv_heads]
        keys.copy_(functional.rms_norm(keys, key_norm.shape, key_norm, self.eps))

    def finish(self, hidden_NF: Tensor, attended_NX: Tensor) -> None:
        """Add the attention's output and the feed-forward to the residual stream, in place."""
        hidden_NF.addmm_(attended_NX, self.output.t())
        if self.output_bias is not None:
            hidden_NF.add_(self.output_bias)
        normed = functional.rms_norm(hidden_NF, self.mlp_norm.shape, self.mlp_norm, self.eps)
        gate, up = functional.linear(normed, self.gate_up).chunk(2, dim=-1)
        hidden_NF.addmm_(functional.silu(gate).mul_(up), self.down.t())


class Target(nn.Module):
    """The frozen language model whose output is served (Llama, Mistral, Qwen2, Qwen3).

    Callers wrap calls in `torch.inference_mode()`, or `torch.no_grad()` where the result feeds training.
    Weights start uninitialised: use `loading.load_target` or `loading.random_target`.
    """

    def __init__(
        self,
        config: TargetConfig,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(
            torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device=device),
            requires_grad=False,
        )
        self.layers = nn.ModuleList(TargetLayer(config, dtype, device) for _ in range(config.num_layers))
        self.norm = nn.Parameter(
            torch.empty(config.hidden_size, dtype=dtype, device=device), requires_grad=False
        )
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else nn.Parameter(torch.empty_like(self.embedding), requires_grad=False)
        )
        self.rope = RotaryEmbedding(
            config.head_dim, config.max_position_embeddings, config.rope_theta, config.rope_scaling
        )
        self.eval()

    @property
    def embedding_VF(self) -> Tensor:
        """Token embedding matrix."""
        return self.embedding

    @property
    def lm_head_VF(self) -> Tensor:
        """LM head matrix; the embedding itself where the two are tied."""
        return self.embedding if self.lm_head is None else self.lm_head

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and hidden states."""
        return self.embedding.dtype

    @property
    def decoder_layers(self) -> list[TargetLayer]:
        """The layers, first to last."""
        return cast("list[TargetLayer]", list(self.layers))

    def embed(self, token_ids_X: Tensor) -> Tensor:
        """Token embeddings: int64 [...] -> [..., F]."""
        return functional.embedding(token_ids_X, self.embedding)

    def logits(self, hidden_NF: Tensor) -> Tensor:
        """LM head on final hidden states: [..., F] -> [..., V]."""
        return functional.linear(hidden_NF, self.lm_head_VF)

    def forward(self, rows: RowBatch, kv: KVCache) -> Tensor:
        """One step over a flat batch: final hidden states [N, F], after the last norm (the LM head's input).

        Writes the rows' K/V into their slots. Positions at or beyond `max_position_embeddings` raise
        IndexError on the CPU.
        """
        hidden_NF = self.embed(rows.token_ids_N)
        rotation = self.rope.rotation(rows.position_ids_N, hidden_NF.dtype)
        groups = prepare_groups(rows, kv, self.config.queries_per_kv_head, hidden_NF.dtype)
        slots_N = rows.slots_N
        for index, layer in enumerate(self.decoder_layers):
            queries_NHD, pairs_N2GD = layer.project(hidden_NF, rotation)
            kv.write_pairs(index, slots_N, pairs_N2GD)
            layer.finish(hidden_NF, attend_groups(groups, index, queries_NHD))
        return self._final_norm(hidden_NF)

    def prefill_hidden(self, token_ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Final hidden states [B, T, F] of whole sequences, padded on the right with any valid token id.

        Dense causal attention without a KV cache, for training features and replay. Rows at and beyond a
        sequence's length are zero.
        """
        batch, positions = token_ids_BT.shape
        hidden_NF = self.embed(token_ids_BT.reshape(-1))
        position_ids_T = torch.arange(positions, device=token_ids_BT.device)
        cos, signed_sin = self.rope.rotation(position_ids_T, hidden_NF.dtype)
        rotation = cos.repeat(batch, 1, 1), signed_sin.repeat(batch, 1, 1)
        for layer in self.decoder_layers:
            queries_NHD, pairs_N2GD = layer.project(hidden_NF, rotation)
            queries_BHTD = queries_NHD.view(batch, positions, *queries_NHD.shape[1:]).transpose(1, 2)
            pairs = pairs_N2GD.view(batch, positions, *pairs_N2GD.shape[1:])
            keys_BGTD, values_BGTD = pairs.permute(2, 0, 3, 1, 4).unbind(0)
            mixed_BHTD = functional.scaled_dot_product_attention(
                queries_BHTD, keys_BGTD, values_BGTD, is_causal=True, enable_gqa=True
            )
            layer.finish(hidden_NF, mixed_BHTD.transpose(1, 2).reshape(batch * positions, -1))
        hidden_BTF = self._final_norm(hidden_NF).view(batch, positions, -1)
        padding_BT = position_ids_T >= lengths_B.to(position_ids_T.device)[:, None]
        return hidden_BTF.masked_fill(padding_BT[..., None], 0.0)

    def _final_norm(self, hidden_NF: Tensor) -> Tensor:
        return functional.rms_norm(hidden_NF, self.norm.shape, self.norm, self.config.rms_norm_eps)
