"""`python -m online_draft.bench.drift [--runs N] [--json OUT]`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_draft.bench.drift.measure import as_report, measure
from online_draft.bench.files import write_json
from online_draft.monitor.drift.verdict import VerdictKind


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m online_draft.bench.drift", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="seeds of each scenario")
    parser.add_argument("--read-after", type=int, default=50, help="samples from alarm to verdict")
    parser.add_argument("--json", type=Path, default=None, help="where the report goes")
    options = parser.parse_args()
    report = as_report(measure(options.runs, options.read_after), options.read_after)
    write_json(report, options.json)
    Console().print(_table(report))


def _table(report: dict[str, Any]) -> Table:
    kinds = get_args(VerdictKind)
    title = (
        f"{report['false_alarms']} false alarms in {report['samples_without_drift']:,} samples without drift"
    )
    table = Table(title=title, box=SIMPLE, pad_edge=False)
    for column in ("scenario", "truth", "alarms", "delay p50", "p95", *kinds):
        table.add_column(column, justify="left" if column in ("scenario", "truth") else "right")
    for row in report["scenarios"]:
        alarms = row["false_alarms"] if row["truth"] == "none" else row["runs"] - row["missed"]
        delays = ["" if value is None else f"{value:.0f}" for value in row["delay_samples"].values()]
        verdicts = [str(row["verdicts"].get(kind, "")) for kind in kinds]
        table.add_row(row["scenario"], row["truth"], f"{alarms} of {row['runs']}", *delays, *verdicts)
    return table


if __name__ == "__main__":
    main()
