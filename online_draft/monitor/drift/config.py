"""When drift is an alarm."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DriftConfig:
    """`delta` and `window` (samples) are ADWIN's. The verdict waits for `settle` samples since the change. An
    alarm ends when acceptance is back, or after `hold_s`. Samples older than `fresh_s` say nothing of now.
    Control looks every `every_s`."""

    delta: float = 0.05
    window: int = 2048
    settle: int = 24
    hold_s: float = 1800.0
    fresh_s: float = 900.0
    every_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ConfigError("drift.delta", f"must be between 0 and 1, got {self.delta}")
        if not 64 <= self.window <= 65_536:
            raise ConfigError("drift.window", f"must be from 64 to 65536, got {self.window}")
        for name in ("settle", "hold_s", "fresh_s", "every_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"drift.{name}", f"must be positive, got {getattr(self, name)}")
