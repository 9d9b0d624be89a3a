"""Medians, percentiles and paired ratios: figures of repeated measurements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median


def percentile(values: Iterable[float], percent: float) -> float | None:
    """The `percent`-th percentile with linear interpolation between ranks; None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def tails(seconds: Sequence[float]) -> dict[str, float | None]:
    """p50, p95 and p99 of durations in seconds, in milliseconds."""
    found = {f"p{percent}": percentile(seconds, percent) for percent in (50, 95, 99)}
    return {name: None if value is None else round(1000 * value, 3) for name, value in found.items()}


def paired_ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Ratio of each repeat to the same repeat of the base; repeats in which the base is 0 are left out."""
    return [value / other for value, other in zip(values, base, strict=True) if other > 0]


def middle(values: Sequence[float], digits: int = 3) -> float | None:
    """The rounded median; None without values."""
    return round(median(values), digits) if values else None


def spread(values: Sequence[float], digits: int = 3) -> list[float] | None:
    """Lowest and highest value, rounded; None without values."""
    return [round(min(values), digits), round(max(values), digits)] if values else None
