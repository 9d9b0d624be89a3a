"""What is counted of replayed records: drift acceptance as sums, of which rates and their errors are made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from online_draft.monitor.drift.samples import DriftSample
from online_draft.monitor.rollups.histogram import add_counts


@dataclass(slots=True)
class DriftCounts:
    """Over `samples` records, by depth: `tried` looks at the heads' likeliest token, `hits` of which were
    right, and the same of the baseline.

    With h right guesses of t of one record over all depths, `hits_squared`, `hits_tried` and `tried_squared`
    are Σh², Σht and Σt². `entropy_micro` is the sum of the target's entropy in 10⁻⁶ nats over `positions`.
    """

    samples: int = 0
    hits_squared: int = 0
    hits_tried: int = 0
    tried_squared: int = 0
    entropy_micro: int = 0
    positions: int = 0
    hits: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    baseline_hits: list[int] = field(default_factory=list)
    baseline_tried: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, sample: DriftSample) -> DriftCounts:
        """Those of one record."""
        hits, tried = sum(sample.champion.hits), sum(sample.champion.tried)
        return cls(
            1, hits * hits, hits * tried, tried * tried, sample.entropy_micro, sample.positions,
            [*sample.champion.hits], [*sample.champion.tried],
            [*sample.baseline.hits], [*sample.baseline.tried],
        )  # fmt: skip

    def add(self, other: DriftCounts) -> None:
        """Add another count to this one, depth by depth."""
        for name in TOTALS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in BY_DEPTH:
            add_counts(getattr(self, name), getattr(other, name))


BY_DEPTH = ("hits", "tried", "baseline_hits", "baseline_tried")
TOTALS = tuple(entry.name for entry in fields(DriftCounts) if entry.name not in BY_DEPTH)
