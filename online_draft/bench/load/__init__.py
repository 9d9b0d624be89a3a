"""`bench load`: throughput and latency of an engine under many clients, plain and speculative."""

from __future__ import annotations

from rich.console import Console

from online_draft.bench.files import write_json
from online_draft.bench.load.measure import measure
from online_draft.bench.load.options import LoadOptions
from online_draft.bench.load.report import print_report


def run(options: LoadOptions, console: Console | None = None) -> int:
    """Run the benchmark, print a table, write the JSON. Returns 1 if a request failed, else 0."""
    console = console or Console()
    report = measure(options, console)
    print_report(report, console)
    write_json(report, options.json_path)
    return 1 if any(entry["failed"] for mode in ("plain", "speculative") for entry in report[mode]) else 0


__all__ = ["LoadOptions", "measure", "run"]
