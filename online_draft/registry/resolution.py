"""Which version to serve when not everything that was decided can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from online_draft.registry.ladder import LadderState


@dataclass(frozen=True, slots=True)
class Resolution:
    """The version to serve, which rung it is, and whether that is less than was decided (an alarm)."""

    version: str | None
    rung: Literal["champion", "previous", "baseline", "none"]
    alarm: bool


def resolve_champion(state: LadderState, readable: Callable[[str], bool]) -> Resolution:
    """Champion, else previous, else baseline, else no drafter. `readable` is asked until it says yes."""
    tried: set[str] = set()
    rungs: tuple[tuple[Literal["champion", "previous", "baseline"], str | None], ...] = (
        ("champion", state.champion),
        ("previous", state.previous),
        ("baseline", state.baseline),
    )
    for rung, version in rungs:
        if version is None or version in tried:
            continue
        tried.add(version)
        if readable(version):
            return Resolution(version, rung, alarm=rung != "champion")
    return Resolution(None, "none", alarm=state.champion is not None)
