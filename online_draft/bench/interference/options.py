"""What `bench interference` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from online_draft.errors import ConfigError

LEAST_PAUSE_S = 0.5
"""The learner begins 0.3 s after the last request."""


@dataclass(frozen=True, slots=True)
class InterferenceOptions:
    """Options of `bench interference`.

    A turn is `bursts` times `burst` requests at once, each time after a pause of about `pause_s` seconds, in
    which the learner works. The learner takes turns being off, in mode `idle`, and with a `floor_share`,
    `repeat` times. `records` answers are logged for it beforehand.
    """

    target: str = "embedded"
    drafter: Path | None = None
    prompts: Path | None = None
    records: int = 160
    repeat: int = 8
    bursts: int = 6
    burst: int = 4
    pause_s: float = 1.0
    floor_share: float = 0.1
    max_new_tokens: int = 64
    threads: int | None = None
    kernels: Literal["wait", "off"] = "wait"
    json_path: Path | None = None

    def check(self) -> None:
        """Raise ConfigError, naming the option, for what can't be measured."""
        for name, least in (
            ("repeat", 1),
            ("bursts", 1),
            ("burst", 1),
            ("max_new_tokens", 2),
            ("records", 8),
        ):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise ConfigError(option, f"must be at least {least}, got {getattr(self, name)}")
        if not LEAST_PAUSE_S <= self.pause_s < float("inf"):
            raise ConfigError("pause", f"must be at least {LEAST_PAUSE_S} s, got {self.pause_s}")
        if not 0 < self.floor_share <= 0.9:
            raise ConfigError("floor-share", f"must be above 0 and at most 0.9, got {self.floor_share}")
        if self.kernels not in ("wait", "off"):
            raise ConfigError("kernels", f"accepted are wait, off; got {self.kernels}")
        if self.target != "embedded" and self.drafter is None:
            raise ConfigError("drafter", f"--drafter is needed for target {self.target}")
