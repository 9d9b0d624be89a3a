"""What `bench swap` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from online_draft.errors import ConfigError

BEHIND = 20
"""Steps from a swap on that count as behind it."""


@dataclass(frozen=True, slots=True)
class SwapOptions:
    """Options of `bench swap`.

    `drafter` and `other` (the embedded target's `baseline` and `narrow` unless named) take turns, `swaps`
    times on each path, with `steps` engine steps at least between two lineups. `streams` requests are under
    way at any time, `requests` different ones, which come again and again.
    """

    target: str = "embedded"
    drafter: Path | None = None
    other: Path | None = None
    swaps: int = 50
    streams: int = 4
    steps: int = 60
    prompts: Path | None = None
    requests: int = 64
    max_new_tokens: int = 96
    temperature: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    tree_nodes: int = 16
    kernels: Literal["wait", "off"] = "wait"
    json_path: Path | None = None

    def check(self) -> None:
        """Raise ConfigError, naming the option, for what can't be measured."""
        for name in ("swaps", "streams", "tree_nodes"):
            if getattr(self, name) < 1:
                raise ConfigError(name.replace("_", "-"), f"must be at least 1, got {getattr(self, name)}")
        if self.steps <= BEHIND:
            raise ConfigError("steps", f"must be more than {BEHIND}, got {self.steps}")
        if self.requests < self.streams:
            raise ConfigError("requests", f"must be at least streams ({self.streams}), got {self.requests}")
        if self.max_new_tokens < 2:
            raise ConfigError("max-new-tokens", f"must be at least 2, got {self.max_new_tokens}")
        if self.temperature < 0:
            raise ConfigError("temperature", f"must not be negative, got {self.temperature}")
        if self.kernels not in ("wait", "off"):
            raise ConfigError("kernels", f"accepted are wait, off; got {self.kernels}")
        if self.target != "embedded" and (self.drafter is None or self.other is None):
            raise ConfigError("drafter", f"--drafter and --other are needed for target {self.target}")
