"""`bench interference`: what the learner costs the requests that it learns beside."""

from __future__ import annotations

from rich.console import Console

from online_draft.bench.files import write_json
from online_draft.bench.interference.measure import measure
from online_draft.bench.interference.options import InterferenceOptions
from online_draft.bench.interference.report import print_report


def run(options: InterferenceOptions, console: Console | None = None) -> int:
    """Run the benchmark, print a table, write the JSON. Returns 1 if a request failed, else 0."""
    console = console or Console()
    report = measure(options, console)
    print_report(report, console)
    write_json(report, options.json_path)
    return 1 if any(entry["failed"] for entry in report["modes"].values()) else 0


__all__ = ["InterferenceOptions", "measure", "run"]
