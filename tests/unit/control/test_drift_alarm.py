"""A drift alarm in words."""

from __future__ import annotations

import pytest

from online_draft.control.alarms import drift_alarm
from online_draft.monitor.drift.state import DriftState
from online_draft.monitor.drift.verdict import VerdictKind


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("harder", "the traffic got harder"),
        ("stale", "the traffic moved"),
        ("regressed", "the drafter got worse"),
        ("unknown", "isn't known yet"),
    ],
)
def test_a_drift_alarm_says_what_fell_and_why(verdict: VerdictKind, words: str) -> None:
    figures = {"champion": {"before": 0.71, "after": 0.52}}
    alarm = drift_alarm(DriftState("sql", True, verdict, 2_000, 1_000, figures))
    assert (alarm.code, alarm.about, alarm.since_ms) == ("drift", "sql", 1_000)
    assert "0.71 -> 0.52" in alarm.message and words in alarm.message
