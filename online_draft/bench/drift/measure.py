"""Runs scenarios through the watch's fold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from online_draft.bench.drift.scenarios import SCENARIOS, Scenario, samples
from online_draft.bench.stats import percentile
from online_draft.monitor.drift.config import DriftConfig
from online_draft.monitor.drift.segment import SegmentDrift

BEFORE = 500
AFTER = 600
EVERY_MS = 1000
"""Between two samples; only the end of an alarm depends on it."""


@dataclass(slots=True)
class Outcome:
    """Of a scenario's runs: alarms before the change, delays of the first alarm behind it in samples, alarms
    missed, and the verdicts `read_after` samples behind the alarm."""

    scenario: Scenario
    runs: int
    false_alarms: int = 0
    missed: int = 0
    delays: list[int] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)


def measure(runs: int, read_after: int = 50, config: DriftConfig | None = None) -> list[Outcome]:
    """All scenarios, `runs` seeds each."""
    return [_run(scenario, runs, read_after, config or DriftConfig()) for scenario in SCENARIOS]


def _run(scenario: Scenario, runs: int, read_after: int, config: DriftConfig) -> Outcome:
    outcome = Outcome(scenario, runs)
    for seed in range(runs):
        drift = SegmentDrift("bench", config)
        alarmed = False
        raised_at: int | None = None
        verdict = "none"
        for number, sample in enumerate(samples(scenario, seed, BEFORE, AFTER)):
            drift.update(number * EVERY_MS, sample)
            state = drift.state(number * EVERY_MS)
            since = number - BEFORE
            if state.alarm and not alarmed:
                if since < 0 or scenario.truth == "none":
                    outcome.false_alarms += 1
                elif raised_at is None:
                    raised_at = since
            alarmed = state.alarm
            if state.alarm and raised_at is not None and since <= raised_at + read_after:
                verdict = state.verdict
        if raised_at is not None:
            outcome.delays.append(raised_at + 1)
        elif scenario.truth != "none":
            outcome.missed += 1
        outcome.verdicts[verdict] += 1
    return outcome


def as_report(outcomes: list[Outcome], read_after: int) -> dict[str, Any]:
    """Counts and delays as plain data."""
    quiet = sum(
        outcome.runs * (BEFORE + (AFTER if outcome.scenario.truth == "none" else 0)) for outcome in outcomes
    )
    return {
        "samples_without_drift": quiet,
        "false_alarms": sum(outcome.false_alarms for outcome in outcomes),
        "verdict_read_after_samples": read_after,
        "scenarios": [
            {
                "scenario": outcome.scenario.name,
                "truth": outcome.scenario.truth,
                "runs": outcome.runs,
                "false_alarms": outcome.false_alarms,
                "missed": outcome.missed,
                "delay_samples": {f"p{p}": percentile(outcome.delays, p) for p in (50, 95)},
                "verdicts": dict(outcome.verdicts),
            }
            for outcome in outcomes
        ],
    }
