"""What is counted of the traffic of one segment under one version in one span of time. Integers."""

from __future__ import annotations

from dataclasses import dataclass, field

from online_draft.core import SpeculationCounts
from online_draft.monitor.rollups.drift_counts import DriftCounts
from online_draft.monitor.rollups.histogram import add_counts

LIVE = ""
"""Stands for the version of what is counted before a request's version is known."""

ERROR_KINDS = ("refused", "overloaded", "cancelled", "deadline", "failed")
"""A request that can't be run, one too many, one whose client went away, one out of time, one that broke."""

Cell = tuple[str, str]
"""Segment and version."""


@dataclass(slots=True)
class TrafficCounts:
    """Under a version, at a request's end: `requests` finished, their `prompt_tokens`, and `speculation`.

    Under `LIVE`, when it happens: `tokens` given out, `errors` by kind of `ERROR_KINDS`, and latency
    histograms with the buckets of `histogram.BOUNDS_US`: `first_token` (from the replica's receipt on) and
    `inter_token` (gaps between two outputs of a stream, however many tokens they have).

    `drift` the learner counts, under the champion that it replayed, when it did.
    """

    requests: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    speculation: SpeculationCounts = field(default_factory=SpeculationCounts)
    first_token: list[int] = field(default_factory=list)
    inter_token: list[int] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    drift: DriftCounts = field(default_factory=DriftCounts)

    def add(self, other: TrafficCounts) -> None:
        """Add another count to this one."""
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.tokens += other.tokens
        self.speculation.add(other.speculation)
        add_counts(self.first_token, other.first_token)
        add_counts(self.inter_token, other.inter_token)
        for kind, count in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + count
        if other.drift.samples:
            self.drift.add(other.drift)

    @property
    def served(self) -> bool:
        """Whether anything but replays was counted."""
        return self != TrafficCounts(drift=self.drift)
