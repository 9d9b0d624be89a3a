"""`bench swap` on the embedded target: the JSON that others read."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from online_draft.cli import app


def test_drafters_are_exchanged_under_load(tmp_path: Path) -> None:
    out = tmp_path / "swap.json"
    few = ["--swaps", "4", "--streams", "2", "--steps", "25", "--requests", "4", "--max-new-tokens", "32"]
    fixed = ["--temperature", "0.7", "--tree-nodes", "6", "--threads", "1", "--json", str(out)]
    result = CliRunner().invoke(app, ["bench", "swap", *few, *fixed])
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert (report["swaps"], report["failed_requests"], report["changed_outputs"]) == (4, 0, 0)
    assert (report["drafter"], report["other"]) == ("baseline", "narrow")
    assert report["requests"] > 4 and report["speculation"] == "always"
    assert {"cpu", "cores", "threads", "versions", "plain_step_ms", "kernel"} <= set(report)
    direct, ladder = (report["path"][path] for path in ("direct", "ladder"))
    assert direct.items() <= report.items()
    assert (direct["lineups"], ladder["swaps"], ladder["lineups"]) == (4, 4, 12)
    for found in (direct, ladder):
        for name in ("swap_ms", "swapping_step_extra_over_plain_step", "quiet_step_extra_over_plain_step"):
            assert set(found[name]) == {"p50", "p99"}
            assert found[name]["p50"] <= found[name]["p99"]
    assert report["swap_ms"]["p50"] > 0
    assert report["tau"]["baseline"] > 1.5 and 0.5 < report["tau_dip"] < 2
    assert 0.5 < ladder["tau_dip"] < 2
