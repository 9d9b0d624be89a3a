"""What becomes of a segment's adapter when another base is champion. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from online_draft.errors import ConfigError

AdaptersMode = Literal["regate", "rebuild", "off"]


@dataclass(frozen=True, slots=True)
class AdaptersConfig:
    """`regate`: it is tried on held-out records of its segment, by the learner's gate, and kept or dropped;
    without adapters that costs nothing. `rebuild`: where one was dropped, another one of `rank` is trained in
    `steps` slices, if the segment has `min_training` records. `off`: it waits for a person.
    """

    mode: AdaptersMode = "regate"
    min_training: int = 200
    steps: int = 300
    rank: int = 16
    learning_rate: float = 4e-3

    def __post_init__(self) -> None:
        if self.mode not in get_args(AdaptersMode):
            raise ConfigError(
                "learner.adapters.mode", f"{self.mode!r} is not one of {', '.join(get_args(AdaptersMode))}"
            )
        for name in ("min_training", "steps", "rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"learner.adapters.{name}", f"{getattr(self, name)} is not an integer >= 1")
        if not self.learning_rate > 0:
            raise ConfigError("learner.adapters.learning_rate", f"must be positive, got {self.learning_rate}")
