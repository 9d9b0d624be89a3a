"""Another mix of training batches than the default one, to compare what it learns and what it forgets."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.errors import ConfigError

_ACCEPTED = "accepted are shares of recent, long, hard and anchor that sum to 1, as in recent=0.6,long=0.4"


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of a batch by room of the reservoirs; they sum to 1."""

    recent: float = 0.0
    long: float = 0.0
    hard: float = 0.0
    anchor: float = 0.0

    def __post_init__(self) -> None:
        shares = asdict(self).values()
        if not all(0 <= share <= 1 for share in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ConfigError("mix", f"{_ACCEPTED}; got {self}")

    def __str__(self) -> str:
        return ",".join(f"{name}={share:g}" for name, share in asdict(self).items())

    @classmethod
    def parse(cls, text: str) -> Mix:
        """From `ROOM=SHARE,…`; rooms that aren't named have none. ConfigError."""
        shares: dict[str, float] = {}
        for pair in text.split(","):
            name, _, share = (part.strip() for part in pair.partition("="))
            if name not in cls.__dataclass_fields__ or name in shares:
                raise ConfigError("mix", f"{_ACCEPTED}; got {text!r}")
            try:
                shares[name] = float(share)
            except ValueError:
                raise ConfigError("mix", f"{_ACCEPTED}; got {text!r}") from None
        return cls(**shares)

    @classmethod
    def of(cls, config: ReservoirConfig) -> Mix:
        """What a config mixes."""
        recent, hard, anchor = config.recent_share, config.hard_share, config.anchor_share
        return cls(recent, round(1 - recent - hard - anchor, 9), hard, anchor)

    def within(self, config: ReservoirConfig) -> ReservoirConfig:
        """The config with this mix."""
        return replace(config, recent_share=self.recent, hard_share=self.hard, anchor_share=self.anchor)
