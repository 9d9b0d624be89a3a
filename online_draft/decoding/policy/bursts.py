"""Plain steps now and then while drafting, which keep the comparison with plain decoding honest."""

from __future__ import annotations

from online_draft.decoding.policy.probing import AWAY

_BURST, _LONG_BURST = 4, 24
"""Plain steps in a row."""
_SETTLING, _LONG_SETTLING = 1, 8
"""So many of them aren't counted: behind a drafted step caches are cold. A plain step that seems a quarter
too slow makes drafting at 0.9 of the plain rate seem to pay."""
_GAPS = (128, 512)
"""Drafted steps between two bursts: near break-even, far from it."""
_CLOSE = 1.5
"""Below this advantage bursts are long."""
_STRAYED = 0.1
"""Where costs have moved this far (log) since the last plain step, it is time for some."""


class Bursts:
    """When to decode plainly for some steps although drafting pays, and which of them tell what one costs."""

    def __init__(self) -> None:
        self._left = 0
        self._gap = _GAPS[0]
        self._settling = _SETTLING
        self._since_plain = 0
        self._plain_drift = 0.0

    def renew(self) -> None:
        """Speculation has just been turned on."""
        self._left = 0
        self._gap = _GAPS[0]

    def goes_on(self) -> bool:
        """Whether the next step is plain because the burst under way isn't over; ask once a step."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def begins(self, advantage: float, drift: float) -> bool:
        """Whether a burst begins with the next step, at this `advantage` of drafting over plain steps.

        `drift` is the cost model's: how far costs have moved, as a logarithm.
        """
        strayed = abs(drift - self._plain_drift) > _STRAYED and self._since_plain >= AWAY
        if not strayed and self._since_plain < self._gap:
            return False
        near, far = _GAPS
        self._gap = min(far, 2 * self._gap) if advantage > 1.2 else near
        burst, self._settling = (_LONG_BURST, _LONG_SETTLING) if advantage < _CLOSE else (_BURST, _SETTLING)
        self._left = burst - 1
        return True

    def counts(self, plain_run: int) -> bool:
        """Whether the last of `plain_run` plain steps in a row tells what one costs."""
        return plain_run > self._settling

    def timed(self, drift: float) -> None:
        """A plain step's time has entered the cost model, whose drift is this now."""
        self._plain_drift = drift

    def plain(self) -> None:
        """A step was plain."""
        self._since_plain = 0

    def drafted(self) -> None:
        """A step drafted."""
        self._since_plain += 1
