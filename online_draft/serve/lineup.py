"""What a replica drafts with: the champion and, during a canary or a watch, a second version beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from online_draft.decoding.engine import Engine
    from online_draft.models.drafter import Drafter

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Lineup(Generic[D]):
    """A champion, and a second drafter for `share` of the sequences. `arms` names the decision that this
    pair comes from and salts the hash; None while the champion is alone."""

    drafter: D | None = None
    version: str | None = None
    second: D | None = None
    second_version: str | None = None
    share: float = 0.0
    arms: str | None = None

    def same_as(self, other: Lineup[D]) -> bool:
        """Whether nothing has to be installed to get from one to the other."""
        return (self.version, self.second_version, self.arms) == (
            other.version,
            other.second_version,
            other.arms,
        )


def stage_lineup(engine: Engine, lineup: Lineup[Drafter], former: Lineup[Drafter]) -> None:
    """Get ready what the engine needs of drafters that it doesn't have yet, beside its running steps.
    ConfigError as from `install_lineup`."""
    for drafter in (lineup.drafter, lineup.second):
        if drafter is not None and drafter is not former.drafter and drafter is not former.second:
            engine.stage(drafter)


def install_lineup(engine: Engine, lineup: Lineup[Drafter], former: Lineup[Drafter] | None = None) -> None:
    """Draft with it from the engine's next step on. ConfigError, and nothing is changed, for a drafter that
    can't draft in this engine.

    A second drafter of `former` that leaves may finish its sequences. A champion that leaves, as in a
    rollback, gives them up at once.
    """
    engine.set_drafters(
        lineup.drafter,
        lineup.version,
        lineup.second,
        lineup.second_version,
        lineup.share,
        lineup.arms or "",
        linger=former is not None and former.version in (lineup.version, lineup.second_version),
    )
