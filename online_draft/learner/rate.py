"""How fast the student learns: faster while traffic drifts, slower when all is quiet."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from online_draft.learner.config import RateConfig

_FAST = 0.1
_SLOW = 0.01
_SETTLED = 50
"""Updates before a loss can be surprising."""


@dataclass(slots=True)
class _State:
    """`quiet`: updates since the last alarm or surprise; `boosted`: how many of them are fast ones."""

    quiet: int = 0
    boosted: int = 0
    seen: int = 0
    fast: float = 0.0
    slow: float = 0.0


class LearningRate:
    """A factor for the learning rate. Not thread-safe, deterministic.

    1 at first; `boost` for `boost_updates` after an alarm, or after the loss has risen to `surprise` times
    its long average; then halved every `half_life` updates, down to `floor`.
    """

    def __init__(self, config: RateConfig) -> None:
        self.config = config
        self.alarms = 0
        """Alarms and surprises so far."""
        self._state = _State()

    @property
    def factor(self) -> float:
        """What to multiply the learning rate with now."""
        state, config = self._state, self.config
        if state.quiet < state.boosted:
            return config.boost
        return max(config.floor, math.exp2((state.boosted - state.quiet) / config.half_life))

    def restart(self) -> None:
        """Another champion serves: all is new."""
        self._state = _State()

    def forget_losses(self) -> None:
        """The student went back to the champion: that its loss rises says nothing of the traffic."""
        self._state.seen = 0

    def alarm(self) -> None:
        """The traffic has changed."""
        self.alarms += 1
        self._state.quiet, self._state.boosted = 0, self.config.boost_updates

    def note(self, loss: float) -> None:
        """One more update, with this loss before it."""
        state = self._state
        if not math.isfinite(loss):
            return
        state.quiet += 1
        state.seen += 1
        state.fast += max(_FAST, 1 / state.seen) * (loss - state.fast)
        state.slow += max(_SLOW, 1 / state.seen) * (loss - state.slow)
        if state.seen >= _SETTLED and state.fast > self.config.surprise * state.slow:
            # The new loss is what is usual from now on: one change, one alarm.
            state.seen, state.slow = 1, state.fast
            self.alarm()

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self._state)

    def restore(self, raw: dict[str, Any]) -> None:
        """Inverse of `as_dict`."""
        self._state = _State(**raw)
