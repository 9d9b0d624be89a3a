"""How much the learner remembers of the traffic, and what a training batch is mixed of."""

from __future__ import annotations

from dataclasses import dataclass, fields

from online_draft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ReservoirConfig:
    """Records kept per segment (`recent`, `long_term`, `hard` of the last `hard_window`, the first `anchors`,
    `held_out`), the mix of a training batch (what the shares leave is long-term), and the share of all
    records that is held out.

    Within a segment's rooms tenants have equal rights; a batch has `tenant_cap` of one tenant at most while
    others have enough. More than `repeats` records with equal prompts or equal answers aren't kept. Beyond
    `segments` the one that rested longest goes, of the tenant with most segments.
    """

    recent: int = 512
    long_term: int = 1024
    hard: int = 128
    hard_window: int = 2048
    anchors: int = 64
    held_out: int = 256
    recent_share: float = 0.6
    hard_share: float = 0.1
    anchor_share: float = 0.05
    tenant_cap: float = 0.5
    held_out_fraction: float = 0.1
    repeats: int = 4
    segments: int = 64
    remembered: int = 65_536
    seed: int = 0

    def __post_init__(self) -> None:
        for entry in fields(self):
            name, value = entry.name, getattr(self, entry.name)
            if entry.type == "float" and not 0 <= value <= 1:
                raise ConfigError(f"learner.reservoirs.{name}", f"{value} is not in [0, 1]")
            if entry.type == "int" and name != "seed" and value < 1:
                raise ConfigError(f"learner.reservoirs.{name}", f"{value} is not an integer >= 1")
        if self.recent_share + self.hard_share + self.anchor_share > 1 + 1e-9:
            raise ConfigError(
                "learner.reservoirs.recent_share", "recent, hard and anchor share sum to more than 1"
            )
