"""What it may cost to find out whether drafting pays.

Times in seconds; a probe's price is that of `_PROBE_STEPS` plain steps.
"""

from __future__ import annotations

_SHARE = 0.005
"""Of the time, what drafting may lose against plain steps in order to find out whether it pays."""
_PROBE_STEPS = 3
AWAY = 16
"""Plain steps between two probes at least. Behind so many, a drafted step isn't typical: the drafter's state
is rebuilt."""
_MAX_BACKOFF = 8.0
_MAX_DEBT = 4.0
"""In probes, as the back-off is."""
_TRIAL_CREDIT = 4.0
"""In probes: what a trial near break-even, or of another drafter, needs."""


class ProbeBudget:
    """A half per cent of the time may be lost; `owed` when more was. Probes that change nothing get rarer."""

    def __init__(self) -> None:
        self.backoff = 1.0
        self.probes = 0
        self._left = 0
        self._price = 0.0
        self._credit = 0.0
        self._wanted = False

    @property
    def owed(self) -> bool:
        """Whether more was lost than may be."""
        return self._credit < 0

    @property
    def spent(self) -> bool:
        """Whether nothing is left to lose."""
        return self._credit <= 0

    @property
    def affords_trial(self) -> bool:
        """Whether drafting may be tried for longer than a probe."""
        return self._credit >= _TRIAL_CREDIT * self._price

    def grant_trial(self) -> None:
        """A trial is free."""
        self._credit = max(self._credit, _TRIAL_CREDIT * self._price)

    def price(self, plain_seconds: float) -> None:
        """What a plain step of the present batch takes."""
        self._price = _PROBE_STEPS * plain_seconds

    def earn(self, seconds: float) -> None:
        """So much time passed."""
        self._credit += _SHARE * seconds

    def lose(self, seconds: float) -> None:
        """A drafted step took so much longer than plain ones for its tokens; negative where it gained."""
        self._credit -= seconds

    def bound(self) -> None:
        """Neither credit nor debt grows without end."""
        self._credit = max(-_MAX_DEBT * self._price, min(self._credit, _MAX_BACKOFF * self._price))

    def want(self) -> None:
        """Something changed: the next probe needn't wait for the back-off."""
        self._wanted = True

    def renew(self) -> None:
        """Another drafter: what was found out says little, and one probe is free."""
        self.backoff = 1.0
        self._wanted = True
        self._credit = max(self._credit, self._price)

    def begin(self, plain_run: int) -> bool:
        """Whether a probe begins now, behind so many plain steps."""
        needed = self._price * (1.0 if self._wanted else self.backoff)
        if plain_run < AWAY or self._credit < needed:
            return False
        self._left = _PROBE_STEPS
        self.probes += 1
        self.backoff = min(_MAX_BACKOFF, 2.0 * self.backoff)
        self._wanted = False
        return True

    @property
    def probing(self) -> bool:
        """Whether steps of a probe are left."""
        return self._left > 0

    def step(self) -> None:
        """One step of a probe was made."""
        self._left -= 1

    def end(self) -> None:
        """No steps are left: drafting is on."""
        self._left = 0
