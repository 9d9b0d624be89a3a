"""`bench scale` with a few replicas against a real redis-server."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from online_draft.bench.scale import ScaleOptions, run


def test_a_small_fleet_is_measured_and_extrapolated(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    options = ScaleOptions(
        replicas=3, seconds=2.0, rate=6.0, swaps=1, version_kb=4, spread=0.1, size=20, json_path=out
    )
    assert run(options, Console(file=io.StringIO())) == 0
    report = json.loads(out.read_text())
    assert report["requests"] == report["intake"]["records"] == 36
    idle, busy = report["idle"], report["busy"]
    # Journal, updates of the target and requests to erase, once a second each.
    assert 1 <= idle["store"]["by_call"]["list"] <= 4.5
    assert idle["redis"]["by_command"]["hset"]["per_s"] >= 2, "four loads a second, and the books"
    assert "publish" not in idle["redis"]["by_command"] and busy["busy_calls"] >= 1
    assert 1 <= busy["redis"]["by_command"]["xadd"]["per_s"] <= 7
    assert busy["redis"]["cpu_us"] > 0 and report["rollups"]["parts"] >= 3
    assert report["swap"]["missed"] == 0 and report["swap"]["kb_a_replica"] >= 4
    assert report["connections"]["each"] == 4, "journal, load, roll-ups, records"
    assert report["first_limit"]["what"] == report["limits"][0]["what"]
    assert set(report["limits"][0]["used"]) == {"3", "20"}
