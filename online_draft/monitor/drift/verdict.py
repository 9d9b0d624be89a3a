"""Why did drift acceptance fall? A pure function of the samples before and after a change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from online_draft.monitor.drift.config import DriftConfig
from online_draft.monitor.drift.samples import DriftSample

VerdictKind = Literal["none", "harder", "stale", "regressed", "unknown"]
"""Nothing fell; the traffic got harder; it moved from what the drafter knows; the drafter got worse; too
little to tell."""

_LIKELY, _SURE = 2.0, 3.0
"""Standard errors: of the champion, whose change was found by other means, and of what tells the cause."""
_MOST_Z = 99.0
"""Shown at most: values that don't differ at all have infinitely sure differences."""
_SHARED = 1 / 3
"""The baseline fell too if it fell by that share of the champion's fall."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A mean over samples before and after a change; `z` is their difference in standard errors."""

    before: float
    after: float
    samples_before: int
    samples_after: int
    z: float

    @property
    def fall(self) -> float:
        """How much less it is after the change."""
        return self.before - self.after

    def fell(self, by: float, errors: float = _SURE) -> bool:
        """Whether it fell by at least that much, and by more than so many standard errors."""
        return self.fall >= by and self.z < -errors

    def rose(self, by: float, errors: float = _SURE) -> bool:
        """Whether it rose by at least that much, and by more than so many standard errors."""
        return -self.fall >= by and self.z > errors


@dataclass(frozen=True, slots=True)
class Verdict:
    """The kind, and the figures that it was read from; None where there are too few samples.

    `same_version` is the champion's acceptance by samples of versions that are on both sides of the change.
    """

    kind: VerdictKind
    champion: Shift | None = None
    baseline: Shift | None = None
    entropy: Shift | None = None
    same_version: Shift | None = None


def judge(
    before: Sequence[DriftSample], after: Sequence[DriftSample], config: DriftConfig | None = None
) -> Verdict:
    """Read the cause of a fall from what fell with it.

    If the baseline fell too, the traffic changed: it is *harder* where the target's entropy rose, else the
    drafter is *stale*. If the champion fell alone, it *regressed*; but weights don't get worse by themselves:
    where versions fell that serve on both sides of the change, the traffic moved from what they know: stale.
    What counts as a fall or a rise, and how many samples it takes, `config` says, or its defaults.
    """
    config = config or DriftConfig()
    least = config.min_samples
    champion = _shift(before, after, _champion, least)
    baseline = _shift(before, after, _baseline, least)
    entropy = _shift(before, after, _entropy, least)
    shared = {sample.version for sample in before} & {sample.version for sample in after}
    same = _shift(
        [sample for sample in before if sample.version in shared],
        [sample for sample in after if sample.version in shared],
        _champion,
        least,
    )
    return Verdict(_kind(champion, baseline, entropy, same, config), champion, baseline, entropy, same)


def _kind(
    champion: Shift | None,
    baseline: Shift | None,
    entropy: Shift | None,
    same: Shift | None,
    config: DriftConfig,
) -> VerdictKind:
    if champion is None:
        return "unknown"
    if not champion.fell(config.min_fall, _LIKELY):
        return "none"
    if baseline is None:
        return "unknown"
    if baseline.fell(max(config.min_fall, _SHARED * champion.fall)):
        if entropy is None:
            return "unknown"
        return "harder" if entropy.rose(config.min_rise * entropy.before) else "stale"
    if same is not None and same.fell(max(config.min_fall, champion.fall / 2)):
        return "stale"
    return "regressed"


def as_figures(verdict: Verdict) -> dict[str, Any]:
    """The figures as plain data."""
    names = ("champion", "baseline", "entropy", "same_version")
    shifts: dict[str, Shift | None] = {name: getattr(verdict, name) for name in names}
    return {
        name: {
            "before": round(shift.before, 4),
            "after": round(shift.after, 4),
            "samples_before": shift.samples_before,
            "samples_after": shift.samples_after,
            "z": round(max(-_MOST_Z, min(_MOST_Z, shift.z)), 2),
        }
        for name, shift in shifts.items()
        if shift is not None
    }


def _champion(sample: DriftSample) -> float | None:
    return sample.champion.rate


def _baseline(sample: DriftSample) -> float | None:
    return sample.baseline.rate


def _entropy(sample: DriftSample) -> float | None:
    return sample.entropy


def _shift(
    before: Sequence[DriftSample],
    after: Sequence[DriftSample],
    value: Callable[[DriftSample], float | None],
    least: int,
) -> Shift | None:
    sides = [[found for sample in side if (found := value(sample)) is not None] for side in (before, after)]
    if min(map(len, sides)) < least:
        return None
    (mean, error), (mean_after, error_after) = map(_mean_and_error, sides)
    spread = math.hypot(error, error_after)
    change = mean_after - mean
    z = change / spread if spread > 0 else math.copysign(math.inf, change) if change else 0.0
    return Shift(mean, mean_after, len(sides[0]), len(sides[1]), z)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
