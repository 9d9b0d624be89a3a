"""`bench load` on the embedded target: the JSON that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from online_draft.cli import app

ENTRY = {
    *("concurrency", "mean_concurrency", "requests", "failed", "tokens_per_second", "spread"),
    *("mean_accepted_length", "ttft_ms", "itl_ms", "tpot_ms"),
}


def load(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "load.json"
    fixed = ["--repeat", "1", "--threads", "1", "--json", str(out)]
    result = CliRunner().invoke(app, ["bench", "load", *fixed, *arguments])
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def test_clients_in_a_closed_loop(tmp_path: Path) -> None:
    report = load(tmp_path, "--concurrency", "1,3", "--requests", "4", "--max-new-tokens", "12")
    assert {
        "cpu",
        "threads",
        "device",
        "dtype",
        "repeat",
        "versions",
        "ratio_spread",
        "plain_again_ratio",
    } <= set(report)
    for mode in ("plain", "speculative"):
        assert [entry["concurrency"] for entry in report[mode]] == [1, 3]
        for entry in report[mode]:
            assert set(entry) == ENTRY
            assert entry["requests"] == 4 and entry["failed"] == 0 and entry["tokens_per_second"] > 0
            assert set(entry["ttft_ms"]) == set(entry["itl_ms"]) == {"p50", "p95", "p99"}
            assert entry["itl_ms"]["p50"] <= entry["itl_ms"]["p95"] <= entry["itl_ms"]["p99"]
    assert set(report["ratio"]) == {"1", "3"} and report["ratio"]["1"] > 0
    assert [entry["mean_accepted_length"] for entry in report["plain"]] == [1.0, 1.0]


@pytest.mark.parametrize(("speculation", "drafts"), [("always", True), ("off", False)])
def test_speculative_runs_speculate_as_asked(tmp_path: Path, speculation: str, drafts: bool) -> None:
    few = ["--concurrency", "2", "--requests", "2", "--max-new-tokens", "12", "--drafter", "synthetic:4"]
    report = load(tmp_path, *few, "--speculation", speculation, "--kernels", "off")
    assert (report["speculation"], report["kernels"]) == (speculation, "off")
    assert (report["speculative"][0]["mean_accepted_length"] > 1.5) == drafts
    assert report["plain"][0]["mean_accepted_length"] == 1.0


def test_a_trace_is_replayed_with_a_synthetic_drafter(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = ["2023-11-16 18:15:46.6805900,37,12", "2023-11-16 18:15:50.9951690,9000,30"]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    drafter = ["--drafter", "synthetic:3.3"]
    report = load(tmp_path, "--trace", str(trace), "--speedup", "20", *drafter)
    assert (report["trace"], report["speedup"]) == ("trace.csv", 20)
    plain, speculative = report["plain"][0], report["speculative"][0]
    assert plain["concurrency"] is None and plain["requests"] == speculative["requests"] == 2
    # How many nodes pay on this machine is the policy's business.
    assert speculative["mean_accepted_length"] >= 1.0 == plain["mean_accepted_length"]
    assert set(report["ratio"]) == {"trace"}


def test_streams_are_watched_while_long_prompts_come_in(tmp_path: Path) -> None:
    few = ["--concurrency", "1", "--requests", "1", "--max-new-tokens", "4"]
    report = load(
        tmp_path, *few, "--repeat", "2", "--long-prompt"
    )  # drafted streams may end after two prompts
    found = report["long_prompt"]
    assert report["p99_itl_ratio_long_prompt"] == found["speculative"]["p99_itl_ratio"] > 0
    assert found["prompt_tokens"] == 1000
    assert found["plain"]["admissions"] >= 3 and found["speculative"]["admissions"] >= 3
