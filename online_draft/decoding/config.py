"""The engine's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from online_draft.errors import ConfigError

MAX_CHUNK_ROWS = 2048
"""A chunk's attention mask is [chunk, context]: this keeps it from growing with the square of a prompt."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes of one engine. Counts are sequences, tokens or rows; nothing here changes an output.

    At most `max_sequences` requests run at a time, and `max_queue` more wait; a further one is refused.

    `kv_tokens` is the size of the KV cache in tokens over all sequences; with `memory_bytes`, the budget of
    the whole engine, it is derived instead: what the target, the draft heads (`drafter_share` of the budget,
    two versions at a time), a learner on the same device (`learner_share`) and one step's working memory
    leave. `tree_nodes` are the nodes that one sequence drafts per step (0 turns speculation off),
    `tree_width` how many of them may share a depth; `feature_window` the hidden rows kept per sequence for
    the drafter.

    A step's flat batch has at most `step_rows` rows: a root for each decoding sequence, then prompt chunks,
    then tree nodes. Prompt rows per step are at most `prefill_rows` while nothing decodes; else as many as
    make the step take about twice as long, at least `prefill_rows_busy`: a long prompt holds up no
    stream. Times are measured with `speculation` "auto" alone; else it is the step's rows that double.

    `prefix_cache` lets requests of one tenant share full blocks of equal prefixes. A hit leaves at least
    `prefix_recompute` tokens to compute, from whose hidden rows the draft heads start (one is enough for the
    target, and all that a request without speculation gets).

    `speculation` "auto" drafts and verifies as much as pays, down to nothing; "always" verifies `tree_nodes`
    nodes per sequence. With `noise_ranked` the trees of sampled requests follow the noise that their tokens
    are chosen with. `ngram` lets what a request or its tenant wrote before be drafted too, with a drafter
    or without one. At most `max_adapters` adapters of the drafter are ready at a time (0: none can be
    loaded), of rank `adapter_rank` at most.

    `kernels` "auto" decodes with compiled code as soon as it is built, "wait" waits for it at the start,
    "off" stays with torch; `threads` are those of compiled code, None asks a probe.
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
    prefill_rows_busy: int = 8
    step_rows: int = 512
    prefix_cache: bool = True
    prefix_recompute: int = 16
    memory_bytes: int | None = None
    drafter_share: float = 0.1
    learner_share: float = 0.0
    speculation: Literal["auto", "always", "off"] = "auto"
    noise_ranked: bool = True
    ngram: bool = True
    max_adapters: int = 8
    adapter_rank: int = 16
    kernels: Literal["auto", "wait", "off"] = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "max_sequences",
            "kv_tokens",
            "block_size",
            "tree_width",
            "feature_window",
            "prefix_recompute",
            "adapter_rank",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"engine.{name}", f"must be at least 1, got {getattr(self, name)}")
        for name in ("max_queue", "tree_nodes", "max_adapters"):
            if getattr(self, name) < 0:
                raise ConfigError(f"engine.{name}", f"must not be negative, got {getattr(self, name)}")
        for name in ("prefill_rows", "prefill_rows_busy"):
            if not 1 <= getattr(self, name) <= MAX_CHUNK_ROWS:
                raise ConfigError(
                    f"engine.{name}", f"must be from 1 to {MAX_CHUNK_ROWS}, got {getattr(self, name)}"
                )
        if self.step_rows <= self.max_sequences:
            raise ConfigError(
                "engine.step_rows",
                f"must be more than max_sequences ({self.max_sequences}), got {self.step_rows}",
            )
        if self.max_context is not None and self.max_context < 2:
            raise ConfigError("engine.max_context", f"must be at least 2, got {self.max_context}")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise ConfigError("engine.memory_bytes", f"must be at least 1, got {self.memory_bytes}")
        for name, accepted in (
            ("speculation", ("auto", "always", "off")),
            ("kernels", ("auto", "wait", "off")),
        ):
            if getattr(self, name) not in accepted:
                raise ConfigError(
                    f"engine.{name}", f"accepted are {', '.join(accepted)}; got {getattr(self, name)!r}"
                )
        if self.threads is not None and self.threads < 1:
            raise ConfigError("engine.threads", f"must be at least 1, got {self.threads}")
        for name in ("drafter_share", "learner_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"engine.{name}", f"must be from 0 to below 1, got {getattr(self, name)}")
