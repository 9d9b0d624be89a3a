"""What `bench churn` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from online_draft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ChurnOptions:
    """`clients` at a time for `minutes`, after a warm-up of `warm_up_s`. The engine runs `sequences` and lets
    `queue` more wait."""

    minutes: float = 20.0
    clients: int = 200
    sequences: int = 8
    queue: int = 32
    warm_up_s: float = 60.0
    target: str = "embedded"
    kernels: str = "auto"
    json_path: Path | None = None

    def check(self) -> None:
        """Raise ConfigError, naming the option, for what can't be done."""
        if self.minutes <= 0:
            raise ConfigError("minutes", f"must be positive, got {self.minutes}")
        if self.warm_up_s < 0:
            raise ConfigError("warm-up", f"must not be negative, got {self.warm_up_s}")
        for name in ("clients", "sequences"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")
        if self.queue < 0:
            raise ConfigError("queue", f"must not be negative, got {self.queue}")
        if self.kernels not in ("auto", "wait", "off"):
            raise ConfigError("kernels", f"accepted are auto, wait, off; got {self.kernels}")
