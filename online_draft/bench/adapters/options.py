"""What `bench adapters` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from online_draft.errors import ConfigError
from online_draft.models.embedded.domains import DOMAINS

EMBEDDED_BASE = "narrow"
"""The embedded target's drafter that is the base unless another is named."""


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """Options of `bench adapters`. Of the `answers` of a segment every seventh is held out."""

    target: str = "embedded"
    drafter: Path | None = None
    segments: tuple[str, ...] = ("python", "story")
    prompts: Path | None = None
    answers: int = 200
    max_new_tokens: int = 96
    steps: int = 120
    minutes: float | None = 1.5
    rank: int = 16
    tree_nodes: int = 16
    streams: int = 8
    threads: int | None = None
    kernels: Literal["wait", "off"] = "wait"
    work: Path | None = None
    json_path: Path | None = None

    def check(self) -> None:
        """Raise ConfigError, naming the option, for what can't be measured."""
        if len(self.segments) < 2 or len(set(self.segments)) < len(self.segments):
            raise ConfigError("segments", f"must be two or more names, got {', '.join(self.segments)}")
        if self.target != "embedded" and (self.prompts is None or self.drafter is None):
            raise ConfigError("prompts", f"--prompts and --drafter are needed for target {self.target}")
        if self.prompts is None and not set(self.segments) <= set(DOMAINS):
            raise ConfigError(
                "segments", f"accepted are {', '.join(DOMAINS)}; got {', '.join(self.segments)}"
            )
        if self.kernels not in ("wait", "off"):
            raise ConfigError("kernels", f"accepted are wait, off; got {self.kernels}")
