"""What a phase's requests counted: integers while it runs, ratios at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from online_draft.bench.shift.phases import Phase
from online_draft.core import Interaction
from online_draft.training.replay import ReplayResult

T = TypeVar("T")

_FEW = 20
"""A depth with fewer tries in either window is left out of the mean acceptance."""
_NEARLY = 0.9
_LEAST_GAIN = 0.05
"""Of τ: less may well be noise, and has no 90 %."""


class Counted(Protocol):
    """One request's integers, served or replayed."""

    @property
    def steps(self) -> int: ...

    @property
    def committed(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Served:
    """One request: what the engine counted, and the record that remains of it."""

    steps: int
    committed: int
    tried: tuple[int, ...]
    accepted: tuple[int, ...]
    record: Interaction


@dataclass(slots=True)
class Tally:
    """One phase. `static` and `ceiling` are the replays of `served`, in the same order, by the drafter of the
    start and by those trained on a domain alone; `final` those of the last window by the last champion."""

    phase: Phase
    window: int
    served: list[Served] = field(default_factory=list)
    static: list[ReplayResult] = field(default_factory=list)
    ceiling: list[ReplayResult] | None = None
    final: list[ReplayResult] = field(default_factory=list)

    @property
    def last_window(self) -> list[Served]:
        """The last complete window; none before there are two."""
        found = windows(self.served, self.window)
        return found[-1] if len(found) > 1 else []

    def as_json(self) -> dict[str, Any]:
        """One entry of `phases`: a public surface, frozen by a test. What isn't known is null."""
        found = windows(self.served, self.window)
        taus = [tau(part) for part in found]
        first, last = (found[0], found[-1]) if len(found) > 1 else ([], [])
        static = _ends(self.static, self.window)
        final, at_shift = tau(last), tau(first)
        before, after = conditional_acceptance(first, last)
        return {
            "kind": self.phase.kind,
            "segment": self.phase.segment,
            "requests": len(self.served),
            "tau_at_shift": _rounded(at_shift),
            "tau_final": _rounded(final),
            "tau_final_replayed": _rounded(tau(self.final)),
            "tau_static": _rounded(tau(static[1])),
            "tau_static_at_shift": _rounded(tau(static[0])),
            "tau_offline_ceiling": _rounded(
                None if self.ceiling is None else tau(_ends(self.ceiling, self.window)[1])
            ),
            "acceptance_at_shift": _rounded(before),
            "acceptance_final": _rounded(after),
            "requests_to_90_percent_of_gain": requests_to_gain(taus, self.window),
            "tau_by_window": [_rounded(value) for value in taus],
            "tau_static_by_window": [_rounded(tau(part)) for part in windows(self.static, self.window)],
            "depths": {"at_shift": _depths(first), "final": _depths(last)},
        }


def tau(items: Sequence[Counted]) -> float | None:
    """Tokens committed per step; None without steps."""
    steps = sum(item.steps for item in items)
    return sum(item.committed for item in items) / steps if steps else None


def windows(items: Sequence[T], size: int) -> list[list[T]]:
    """Cut into complete windows, one after the other; what is left over is dropped."""
    return [list(items[start : start + size]) for start in range(0, len(items) - size + 1, size)]


def requests_to_gain(taus: Sequence[float | None], window: int) -> int | None:
    """Requests until the end of the first window that has 90 % of what the last has over the first. None
    without a gain of 5 %."""
    known = [value for value in taus if value is not None]
    if len(known) < max(2, len(taus)) or known[-1] < (1 + _LEAST_GAIN) * known[0]:
        return None
    wanted = known[0] + _NEARLY * (known[-1] - known[0])
    return window * (1 + next(index for index, value in enumerate(known) if value >= wanted))


def conditional_acceptance(
    before: Sequence[Served], after: Sequence[Served]
) -> tuple[float | None, float | None]:
    """Accepted over tried by depth, averaged over the depths that both windows tried often enough."""
    one, other = _depths(before), _depths(after)
    depths = [
        depth
        for depth, (a, b) in enumerate(zip(one["tried"], other["tried"], strict=False))
        if min(a, b) >= _FEW
    ]
    if not depths:
        return None, None
    first, second = (
        sum(side["accepted"][depth] / side["tried"][depth] for depth in depths) / len(depths)
        for side in (one, other)
    )
    return first, second


def _depths(items: Sequence[Served]) -> dict[str, list[int]]:
    """Tries and hits by depth, summed."""
    deepest = max((len(item.tried) for item in items), default=0)
    sums: dict[str, list[int]] = {"tried": [0] * deepest, "accepted": [0] * deepest}
    for item in items:
        for name, counts in (("tried", item.tried), ("accepted", item.accepted)):
            for depth, value in enumerate(counts):
                sums[name][depth] += value
    return sums


def _ends(items: Sequence[T], size: int) -> tuple[list[T], list[T]]:
    found = windows(items, size)
    return (found[0], found[-1]) if len(found) > 1 else ([], [])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
