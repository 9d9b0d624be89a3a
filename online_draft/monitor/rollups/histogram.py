"""Latencies as counts in fixed buckets, so that histograms of replicas and times add up."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

BOUNDS_US = tuple(step * 10**power for power in range(1, 7) for step in (10, 15, 20, 30, 50, 70))
"""Upper bounds (inclusive) in µs, from 100 µs to 70 s. The bucket behind the last holds everything above."""


def place(seconds: float) -> int:
    """Which bucket a latency belongs to."""
    return bisect_left(BOUNDS_US, seconds * 1e6)


def count_at(histogram: list[int], bucket: int) -> None:
    """Add one to a bucket; the list is as long as its last bucket that isn't empty."""
    if len(histogram) <= bucket:
        histogram += [0] * (bucket + 1 - len(histogram))
    histogram[bucket] += 1


def add_counts(total: list[int], more: Sequence[int]) -> None:
    """Add `more` to `total`, bucket by bucket. `total` grows as need be."""
    if len(total) < len(more):
        total += [0] * (len(more) - len(total))
    for bucket, count in enumerate(more):
        total[bucket] += count
