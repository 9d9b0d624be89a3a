"""The one decoder skeleton for all supported targets: frozen, fused, without a framework around it.

Shapes: N rows of the flat batch, B sequences, T positions, F hidden size, V vocabulary, H query heads,
G key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from online_draft.models.attention import attend_groups, prepare_groups
from online_draft.models.config import TargetConfig
from online_draft.models.frozen import FrozenLinear, FrozenNorm
from online_draft.models.kv import KVCache
from online_draft.models.prefill import Prefill
from online_draft.models.rope import RotaryEmbedding, Rotation, rotate_
from online_draft.models.rows import RowBatch

PACK_LIMIT_BYTES = 1 << 30
"""A packed copy doubles the memory of the weights; larger targets do without."""


class TargetLayer(nn.Module):
    """The weights of one pre-norm decoder layer: grouped-query attention, then a SwiGLU feed-forward.

    Queries, keys and values share one matrix (`qkv`, rows in this order), gate and up another. Weights start
    uninitialised. `FrozenLayer` runs them.
    """

    def __init__(self, config: TargetConfig, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        c = config

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


class FrozenLayer:
    """One decoder layer as a step runs it: prepared once from a `TargetLayer`, whose weights then stay."""

    def __init__(self, config: TargetConfig, layer: TargetLayer, pack: bool) -> None:
        eps = config.rms_norm_eps
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.attention_norm = FrozenNorm(layer.attention_norm, eps)
        self.qkv = FrozenLinear(layer.qkv, layer.qkv_bias, pack)
        self.query_norm = None if layer.query_norm is None else FrozenNorm(layer.query_norm, eps)
        self.key_norm = None if layer.key_norm is None else FrozenNorm(layer.key_norm, eps)
        self.output = FrozenLinear(layer.output, layer.output_bias, pack)
        self.mlp_norm = FrozenNorm(layer.mlp_norm, eps)
        self.gate_up = FrozenLinear(layer.gate_up, None, pack)
        self.down = FrozenLinear(layer.down, None, pack)

    def project(self, hidden_NF: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Rotated queries [N, H, D], and rotated keys with their values [N, 2, G, D]."""
        heads, kv_heads = self.heads, self.kv_heads
        rows_NXD = self.qkv(self.attention_norm(hidden_NF)).view(hidden_NF.shape[0], -1, self.head_dim)
        queries_NHD = rows_NXD.narrow(1, 0, heads)
        if self.query_norm is not None and self.key_norm is not None:
            keys_NGD = rows_NXD.narrow(1, heads, kv_heads)
            queries_NHD.copy_(self.query_norm(queries_NHD))
            keys_NGD.copy_(self.key_norm(keys_NGD))
        rotate_(rows_NXD.narrow(1, 0, heads + kv_heads), rotation)
        pairs_N2GD = rows_NXD.narrow(1, heads, 2 * kv_heads).view(-1, 2, kv_heads, self.head_dim)
        return queries_NHD, pairs_N2GD

    def finish(self, hidden_NF: Tensor, attended_NX: Tensor) -> None:
        """Add the attention's output and the feed-forward to the residual stream, in place."""
        self.output.add_to(hidden_NF, attended_NX)
        gate, up = self.gate_up(self.mlp_norm(hidden_NF)).chunk(2, dim=-1)
        self.down.add_to(hidden_NF, functional.silu(gate).mul_(up))


class FrozenStack:
    """All of a target's layers, its final norm and its LM head, prepared to run."""

    def __init__(self, target: Target) -> None:
        c = target.config
        pack = sum(parameter.nbytes for parameter in target.parameters()) <= PACK_LIMIT_BYTES
        self.layers = [FrozenLayer(c, layer, pack) for layer in target.decoder_layers]
        self.norm = FrozenNorm(target.norm, c.rms_norm_eps)
        self.lm_head = FrozenLinear(target.lm_head_VF, None, pack)


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
        self._frozen: FrozenStack | None = None
        self.generation = 0
        """Rises with every change of the weights."""
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

    @property
    def stored_layers(self) -> list[TargetLayer]:
        """Where the layers in a directory of weights are copied to."""
        return self.decoder_layers

    def embed(self, token_ids_X: Tensor) -> Tensor:
        """Token embeddings: int64 [...] -> [..., F]."""
        return functional.embedding(token_ids_X, self.embedding)

    def logits(self, hidden_NF: Tensor) -> Tensor:
        """LM head on final hidden states: [..., F] -> [..., V]. Differentiable by `hidden_NF`."""
        if torch.is_grad_enabled() and hidden_NF.requires_grad:
            return functional.linear(hidden_NF, self.lm_head_VF)
        rows = hidden_NF.reshape(-1, hidden_NF.shape[-1])
        return self.frozen().lm_head(rows).view(*hidden_NF.shape[:-1], self.config.vocab_size)

    def frozen(self) -> FrozenStack:
        """The prepared weights; made at the first call. Weights changed in place afterwards need `thaw()`."""
        if self._frozen is None:
            with torch.inference_mode(False), torch.no_grad():
                self._frozen = FrozenStack(self)
        return self._frozen

    def thaw(self) -> None:
        """The weights have changed: what was prepared from them is prepared again when needed. Idempotent."""
        self.generation += 1
        self._frozen = None

    def forget_prepared(self) -> None:
        """Free what `frozen` holds; the next call prepares it again. Idempotent."""
        self._frozen = None

    def forward(self, rows: RowBatch, kv: KVCache) -> Tensor:
        """One step over a flat batch: final hidden states [N, F], after the last norm (the LM head's input).

        Writes the rows' K/V into their slots. Positions at or beyond `max_position_embeddings` raise
        IndexError on the CPU.
        """
        stack = self.frozen()
        hidden_NF = self.embed(rows.token_ids_N)
        rotation = self.rope.rotation(rows.position_ids_N, hidden_NF.dtype)
        groups = prepare_groups(rows, kv, hidden_NF.dtype)
        slots_N = rows.slots_N
        for index, layer in enumerate(stack.layers):
            queries_NHD, pairs_N2GD = layer.project(hidden_NF, rotation)
            kv.write_pairs(index, slots_N, pairs_N2GD)
            layer.finish(hidden_NF, attend_groups(groups, index, queries_NHD))
        return stack.norm(hidden_NF)

    def prefill_hidden(
        self,
        token_ids_BT: Tensor,
        lengths_B: Tensor,
        layers: tuple[int, ...] = (),
        first_BT: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states [B, T, F] of whole sequences, padded on the right with any valid token id.

        Dense causal attention without a KV cache, for training features and replay. Rows at and beyond a
        sequence's length are zero. `layers` adds the residual stream behind so many decoder layers each, next
        to the final states: [B, T, (1 + layers) * F]. With `first_BT`, where the text of each position begins
        in its row, several texts are packed in one row: positions count from there, nothing before is seen.
        Raises ConfigError for layers that the target doesn't have.
        """
        prefill = Prefill(self, token_ids_BT, lengths_B, layers, first_BT)
        while not prefill.done:
            prefill.advance()
        return prefill.hidden()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.thaw()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frozen": None}
