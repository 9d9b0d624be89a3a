"""What `bench load` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from online_draft.bench.synthetic import PREFIX, parse_tau
from online_draft.errors import ConfigError

CONCURRENCY = (1, 2, 4, 8, 16, 32)
TRACE_REQUESTS = 256
"""So many rows of a trace are replayed unless more are asked for."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of `bench load`.

    `drafter` is a directory, `ngram` (no heads) or `synthetic:τ`; None is the embedded baseline. `requests`
    is how many one measurement answers: by default six per client, at least 64; for a trace its first 256
    rows. With a `trace` arrivals and lengths are the trace's, `speedup` times as fast, and no clients are
    simulated. `speculation` and `kernels` are the engines' (`EngineConfig`); plain runs never draft.
    """

    target: str = "embedded"
    drafter: str | None = None
    concurrency: tuple[int, ...] | None = None
    prompts: Path | None = None
    requests: int | None = None
    max_new_tokens: int = 64
    temperature: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    repeat: int = 5
    tree_nodes: int = 16
    trace: Path | None = None
    speedup: float = 1.0
    sequences: int | None = None
    long_prompt: bool = False
    speculation: Literal["auto", "always", "off"] = "auto"
    kernels: Literal["auto", "wait", "off"] = "wait"
    json_path: Path | None = None

    @property
    def clients(self) -> tuple[int, ...]:
        """The concurrencies to measure; none with a trace."""
        return () if self.trace is not None else self.concurrency or CONCURRENCY

    @property
    def synthetic(self) -> bool:
        """Whether the drafter draws its hits."""
        return self.drafter is not None and self.drafter.startswith(PREFIX)

    def requests_at(self, clients: int) -> int:
        """Requests of one closed-loop measurement."""
        return self.requests or max(64, 6 * clients)

    def check(self) -> None:
        """Raise ConfigError, naming the option, for what can't be measured."""
        for name in ("max_new_tokens", "repeat", "tree_nodes"):
            if getattr(self, name) < 1:
                raise ConfigError(name.replace("_", "-"), f"must be at least 1, got {getattr(self, name)}")
        for name in ("requests", "sequences"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name, f"must be at least 1, got {value}")
        for name, accepted in (
            ("speculation", ("auto", "always", "off")),
            ("kernels", ("auto", "wait", "off")),
        ):
            if getattr(self, name) not in accepted:
                raise ConfigError(name, f"accepted are {', '.join(accepted)}; got {getattr(self, name)}")
        if self.temperature < 0:
            raise ConfigError("temperature", f"must not be negative, got {self.temperature}")
        if not 0 < self.speedup < float("inf"):
            raise ConfigError("speedup", f"must be positive, got {self.speedup}")
        if self.trace is not None and self.concurrency is not None:
            raise ConfigError("concurrency", "a trace brings its own arrivals: leave it out with --trace")
        if self.trace is None and self.speedup != 1.0:
            raise ConfigError("speedup", "needs a --trace to replay")
        if self.concurrency is not None and (not self.concurrency or min(self.concurrency) < 1):
            raise ConfigError("concurrency", "must be numbers of at least 1, such as 1,4,16")
        if len(set(self.clients)) < len(self.clients):
            raise ConfigError("concurrency", "a number is named twice")
        if self.drafter is None and self.target != "embedded":
            raise ConfigError("drafter", "name the drafter to measure: --drafter DIR, ngram or synthetic:τ")
        if self.drafter is not None and self.synthetic:
            parse_tau(self.drafter)
