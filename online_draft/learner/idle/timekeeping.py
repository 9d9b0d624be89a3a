"""Where the learner's time goes, and how much of it a busy service owes it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_MOST_CREDIT_S = 1.0
_NICEST = 19
_NICE_STEP = 1.25
"""A thread has this many times the CPU time of one that is nicer by 1 (Linux' scheduler)."""


class StateTimes:
    """Milliseconds spent in each state so far. `as_dict` may be called by any thread."""

    def __init__(self, first: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._state = first
        self._since = clock()
        self._seconds: dict[str, float] = {}

    def enter(self, state: str) -> None:
        """In this state from now on."""
        now = self._clock()
        self._seconds[self._state] = self._seconds.get(self._state, 0.0) + now - self._since
        self._state, self._since = state, now

    def as_dict(self) -> dict[str, int]:
        """Milliseconds by state, the present one up to now."""
        seconds = dict(self._seconds)
        seconds[self._state] = seconds.get(self._state, 0.0) + self._clock() - self._since
        return {state: round(1000 * spent) for state, spent in seconds.items()}


class FloorShare:
    """The part of the time that the learner may take while serving is busy. Not thread-safe.

    Credit grows while serving is busy and is spent by work; work may begin while there is any. A long pause
    is worth a second at most.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._asked_at: float | None = None
        self._credit_s = 0.0

    def due(self) -> bool:
        """Serving is busy: may one piece of work be done all the same?"""
        now = self._clock()
        if self._asked_at is not None:
            earned = self._share * (now - self._asked_at)
            self._credit_s = min(_MOST_CREDIT_S * self._share, self._credit_s + earned)
        self._asked_at = now
        return self._share > 0 and self._credit_s > 0

    def spend(self, seconds: float) -> None:
        """So much was worked since."""
        self._credit_s -= seconds

    def rest(self) -> None:
        """Serving is idle: nothing is owed."""
        self._asked_at = None


def niceness(share: float) -> int | None:
    """The niceness that leaves a thread about this share of one contended CPU; None for a share of 0: it only
    gets time that nobody else wants."""
    if share <= 0:
        return None
    steps = math.log(max(1.0, (1 - share) / share), _NICE_STEP)
    return max(0, min(_NICEST, math.floor(steps)))
