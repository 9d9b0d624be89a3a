"""When did a mean change? ADWIN (Bifet and Gavaldà 2007)."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from online_draft.errors import ConfigError


class ChangeDetector(Protocol):
    """Watches a stream of values in [0, 1]."""

    def update(self, value: float) -> None:
        """Take in the next value."""
        ...

    @property
    def changed(self) -> int:
        """How many of the newest values came since the change that the last update found; 0: none found."""
        ...


class Adwin:
    """A window that grows while its mean stays, and drops what came before a change.

    With every value all cuts of the window are tried: its parts differ if their means do by more than
    √(2σ²/m · ln(2/δ')) + 2/(3m) · ln(2/δ'), with 1/m = 1/n₀ + 1/n₁ and δ' = δ/ln n (their section 4). The
    window is held as it is, `max_window` values at most, not as an exponential histogram: its cut is exact
    and costs microseconds for some thousand values. `delta` bounds the chance of a false cut of one window.
    """

    def __init__(self, delta: float = 0.002, min_side: int = 8, max_window: int = 2048) -> None:
        """Each part of a cut has at least `min_side` values."""
        if not 0 < delta < 1:
            raise ConfigError("delta", f"must be between 0 and 1, got {delta}")
        if not 1 <= min_side <= max_window // 2:
            raise ConfigError("min_side", f"must be from 1 to half of max_window, got {min_side}")
        self._delta = delta
        self._min_side = min_side
        self._max_window = max_window
        self._window = np.empty(0)
        self._changed = 0

    @property
    def changed(self) -> int:
        """See `ChangeDetector`."""
        return self._changed

    @property
    def width(self) -> int:
        """How many values the window has."""
        return len(self._window)

    def update(self, value: float) -> None:
        """Take in the next value; O(window). ConfigError outside [0, 1]."""
        if not 0 <= value <= 1:
            raise ConfigError("value", f"must be from 0 to 1, got {value}")
        self._window = np.append(self._window[-self._max_window + 1 :], value)
        self._changed = 0
        while cut := self._cut():
            self._window = self._window[cut:]
            self._changed = len(self._window)

    def _cut(self) -> int:
        """Where the two parts differ most beyond doubt; 0 if nowhere."""
        size = len(self._window)
        before_C = np.arange(self._min_side, size - self._min_side + 1)
        if len(before_C) == 0:
            return 0
        sums = self._window.cumsum()
        sums_C = sums[before_C - 1]
        after_C = size - before_C
        difference_C = np.abs(sums_C / before_C - (sums[-1] - sums_C) / after_C)
        doubt = math.log(2 * math.log(size) / self._delta)
        inverse_C = 1 / before_C + 1 / after_C
        bound_C = np.sqrt(2 * inverse_C * self._window.var() * doubt) + 2 / 3 * inverse_C * doubt
        best = int((difference_C / bound_C).argmax())
        return int(before_C[best]) if difference_C[best] > bound_C[best] else 0
