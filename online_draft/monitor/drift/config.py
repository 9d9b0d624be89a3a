"""When drift is an alarm, and what its cause is read from."""

from __future__ import annotations

from dataclasses import dataclass

from online_draft.errors import ConfigError

MOST_SAMPLES = 2048
"""Of a segment in Redis (`RedisKeys.drift_samples_maxlen`): a longer window would be another one after a
restart."""
JUDGED = 256
"""Samples of either side that a verdict is read from, at most: those next to the change and the newest."""


@dataclass(frozen=True, slots=True)
class DriftConfig:
    """ADWIN holds `window` samples and cuts them, at least `min_side` on either side, where their means
    differ at level `delta`.

    A verdict compares `min_samples` on both sides, at least; acceptance fell by `min_fall` or more, or it
    didn't fall, and the target's entropy rose by the part `min_rise` or more. It is shown after `settle`
    samples since the change. An alarm ends when acceptance is back, or after `hold_s`. Samples older than
    `fresh_s` say nothing of now. Control looks every `every_s`.
    """

    delta: float = 0.05
    window: int = MOST_SAMPLES
    min_side: int = 8
    min_samples: int = 8
    min_fall: float = 0.03
    min_rise: float = 0.05
    settle: int = 24
    hold_s: float = 1800.0
    fresh_s: float = 900.0
    every_s: float = 2.0

    def __post_init__(self) -> None:
        for name in ("delta", "min_fall", "min_rise"):
            if not 0 < getattr(self, name) < 1:
                raise _refused(name, "between 0 and 1", getattr(self, name))
        for name, least, most in (
            ("window", 64, MOST_SAMPLES),
            ("min_side", 1, self.window // 2),
            ("min_samples", 2, JUDGED),
            ("settle", 1, JUDGED),
        ):
            if not least <= getattr(self, name) <= most:
                raise _refused(name, f"from {least} to {most}", getattr(self, name))
        for name in ("hold_s", "fresh_s", "every_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise _refused(name, "positive and finite", getattr(self, name))


def _refused(name: str, accepted: str, value: object) -> ConfigError:
    return ConfigError(f"control.drift.{name}", f"must be {accepted}, got {value}")
