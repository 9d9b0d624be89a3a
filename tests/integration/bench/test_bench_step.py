"""`bench step`: the JSON that others read, for a loaded target and for a shape with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from online_draft.cli import app

PARTS = {"draft", "forward", "verify", "compaction", "host"}


def step(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "step.json"
    fixed = ["--repeat", "1", "--steps", "3", "--threads", "1", "--json", str(out)]
    result = CliRunner().invoke(app, ["bench", "step", *arguments, *fixed])
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def test_the_embedded_targets_step_is_taken_apart(tmp_path: Path) -> None:
    report = step(tmp_path, "--rows", "8,16", "--batch", "1,2", "--context", "40")
    assert report["threads"] == 1 and report["weight_bytes"] > 10**7
    assert report["floor_ms"] > 0 and report["plain_step_ms"] > 0.5 * report["stored_floor_ms"] > 0
    ratio = report["plain_step_ms"] / report["floor_ms"]
    assert report["plain_step_over_floor"] == pytest.approx(ratio, rel=0.01)
    assert set(report["verify_step_over_plain"]) == {"8", "16"}
    assert 0 < report["draft_share"] < 1 and 0 < report["host_overhead_share"] < 1
    assert [(e["batch"], e["rows"]) for e in report["steps"]] == [(b, r) for b in (1, 2) for r in (1, 8, 16)]
    for entry in report["steps"]:
        assert set(entry["parts_ms"]) == PARTS and entry["step_ms"] > 0
        assert (entry["parts_ms"]["draft"] > 0.02) == (entry["rows"] > 1)


def test_a_shape_is_measured_without_its_weights(tmp_path: Path) -> None:
    report = step(tmp_path, "--random-init", "135m", "--layers", "1", "--rows", "4", "--context", "16")
    assert (report["target"], report["layers"], report["reported_rows"]) == ("135m", 1, 4)
    assert set(report["verify_step_over_plain"]) == {"4"}
