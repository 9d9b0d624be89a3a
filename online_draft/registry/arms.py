"""Two versions at once: the champion, and a second one that drafts for a share of the sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from online_draft.errors import ConfigError
from online_draft.registry.journal import Decision

DEFAULT_SHARE = 0.1
"""Of a canary whose decision names none."""

SHARE = "share"
CONTROL_SHARE = "control_share"


@dataclass(frozen=True, slots=True)
class Arms:
    """`second` is a canary, or the previous champion as the control group of a watch.

    It drafts for `share` of the sequences, by a hash, since decision `seq` at `at_ms`. All of it
    comes from that one journal entry, so every replica splits alike.
    """

    role: Literal["canary", "control"]
    second: str
    share: float
    seq: int
    at_ms: int

    @property
    def name(self) -> str:
        """One for each decision. The hash is salted with it, so that no request is in one arm forever, and
        counts are kept under it."""
        return f"{self.seq}-{self.second}"


def canary_arms(decision: Decision, version: str) -> Arms:
    """The arms that a canary begins. ConfigError for a share out of range."""
    share = _share(decision.numbers, SHARE)
    return Arms("canary", version, DEFAULT_SHARE if share is None else share, decision.seq, decision.at_ms)


def watch_arms(decision: Decision, previous: str) -> Arms | None:
    """The arms that a promotion begins; None if its numbers have no `control_share`: nobody watches.
    ConfigError for a share out of range."""
    share = _share(decision.numbers, CONTROL_SHARE)
    return None if share is None else Arms("control", previous, share, decision.seq, decision.at_ms)


def _share(numbers: Mapping[str, Any], name: str) -> float | None:
    value = numbers.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"numbers.{name}", f"must be a number between 0 and 1, got {value!r}")
    return float(value)
