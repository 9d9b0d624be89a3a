"""Which sequence numbers of a writer were seen: finds doubles and gaps, in any order of arrival."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

_MAX_GAPS = 16_384
"""An erased tenant's records leave gaps until their stones come, up to one per record in the stream."""


@dataclass(slots=True)
class SequenceTrack:
    """Numbers seen so far: all of [first, last] except the `gaps`, sorted ranges [low, high].

    Empty while `last < first`. When gaps grow too many the oldest is closed: it stays missing for good
    and a late arrival in it counts as a double.
    """

    first: int
    last: int
    gaps: list[tuple[int, int]] = field(default_factory=list)
    closed: int = 0

    @property
    def missing(self) -> int:
        """How many numbers between first and last never came."""
        return self.closed + sum(high - low + 1 for low, high in self.gaps)

    def see(self, number: int) -> bool:
        """Note one number; False when it was seen before."""
        if self.last < self.first:
            self.first = self.last = number
        elif number > self.last:
            self._add_gap(self.last + 1, number - 1)
            self.last = number
        elif number < self.first:
            self._add_gap(number + 1, self.first - 1)
            self.first = number
        else:
            return self._fill(number)
        return True

    def _add_gap(self, low: int, high: int) -> None:
        if low > high:
            return
        self.gaps.insert(bisect_left(self.gaps, (low, high)), (low, high))
        if len(self.gaps) > _MAX_GAPS:
            oldest = self.gaps.pop(0)
            self.closed += oldest[1] - oldest[0] + 1

    def _fill(self, number: int) -> bool:
        index = bisect_left(self.gaps, (number + 1, 0)) - 1
        if index < 0 or number > self.gaps[index][1]:
            return False
        low, high = self.gaps.pop(index)
        rest = [(low, number - 1), (number + 1, high)]
        self.gaps[index:index] = [(a, b) for a, b in rest if a <= b]
        return True
