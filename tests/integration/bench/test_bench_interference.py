"""`bench interference` with real learners in processes of their own: the JSON that others read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from online_draft.cli import app


@pytest.mark.slow
def test_learners_work_in_the_pauses(tmp_path: Path) -> None:
    out = tmp_path / "interference.json"
    few = ["--repeat", "1", "--bursts", "2", "--burst", "2", "--max-new-tokens", "16", "--records", "24"]
    fixed = ["--pause", "0.8", "--floor-share", "0.3", "--threads", "1", "--json", str(out)]
    result = CliRunner().invoke(app, ["bench", "interference", *few, *fixed])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert set(report["modes"]) == {"off", "idle", "floor", "off again"}
    for entry in report["modes"].values():
        assert (entry["requests"], entry["failed"]) == (4, 0)
        assert entry["itl_ms"]["p50"] <= entry["itl_ms"]["p99"]
    assert report["modes"]["off"]["learner_slices"] == 0
    assert report["modes"]["idle"]["learner_slices"] + report["modes"]["floor"]["learner_slices"] > 0
    assert set(report["p99_itl_ratio"]["idle"]) == {"median", "low", "high"}
    assert {"admissions", "p50", "p99"} <= set(report["off_cpu_ms"])
    assert {"cpu", "cores", "threads", "versions", "kernel"} <= set(report)
