"""The engine's configuration."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes of one engine. Counts are sequences, tokens or rows; nothing here changes an output.

    `kv_tokens` is the size of the KV cache in tokens over all sequences; `tree_nodes` the nodes that one
    sequence drafts per step (0 turns speculation off), `tree_width` how many of them may share a depth;
    `feature_window` the hidden rows kept per sequence for the drafter; `prefill_rows` the prompt tokens
    that one step takes in beside the decoding sequences.
    """

    max_sequences: int = 16
    max_queue: int = 64
    max_context: int | None = None
    kv_tokens: int = 16384
    block_size: int = 16
    tree_nodes: int = 16
    tree_width: int = 8
    feature_window: int = 256
    prefill_rows: int = 256

    def __post_init__(self) -> None:
        for name in (
            "max_sequences",
            "kv_tokens",
            "block_size",
            "tree_width",
            "feature_window",
            "prefill_rows",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"engine.{name}", f"must be at least 1, got {getattr(self, name)}")
        for name in ("max_queue", "tree_nodes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"engine.{name}", f"must not be negative, got {getattr(self, name)}")
        if self.max_context is not None and self.max_context < 2:
            raise ConfigError("engine.max_context", f"must be at least 2, got {self.max_context}")
