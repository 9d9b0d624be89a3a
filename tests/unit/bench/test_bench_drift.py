"""`python -m online_draft.bench.drift` on two short scenarios."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from online_draft.bench.drift import measure
from online_draft.bench.drift.__main__ import main
from online_draft.bench.drift.scenarios import SCENARIOS, samples


def test_the_report_counts_alarms_delays_and_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [one for one in SCENARIOS if one.name in ("nothing changes", "another domain")]
    monkeypatch.setattr(measure, "SCENARIOS", chosen)
    monkeypatch.setattr(measure, "BEFORE", 150)
    monkeypatch.setattr(measure, "AFTER", 120)
    out = tmp_path / "drift.json"
    monkeypatch.setattr("sys.argv", ["drift", "--runs", "2", "--json", str(out)])
    main()
    report = json.loads(out.read_text())
    quiet, moved = report["scenarios"]
    assert (report["samples_without_drift"], report["false_alarms"]) == (2 * 270 + 2 * 150, 0)
    assert (quiet["verdicts"], quiet["delay_samples"]["p50"]) == ({"none": 2}, None)
    assert (moved["verdicts"], moved["missed"]) == ({"stale": 2}, 0)
    assert 10 < moved["delay_samples"]["p50"] < 80
    assert "0 false alarms in 840" in capsys.readouterr().out


def test_a_seed_makes_the_same_samples_again() -> None:
    first, again, other = (list(samples(SCENARIOS[2], seed, 20, 20)) for seed in (1, 1, 2))
    assert first == again != other
