"""`bench step`: one engine step taken apart, and the floor beneath it."""

from __future__ import annotations

from rich.console import Console

from online_draft.bench.files import write_json
from online_draft.bench.step.measure import measure
from online_draft.bench.step.options import StepOptions
from online_draft.bench.step.report import print_report
from online_draft.bench.step.shapes import SHAPES


def run(options: StepOptions, console: Console | None = None) -> int:
    """Run the benchmark, print a table, write the JSON. Returns 0."""
    console = console or Console()
    report = measure(options, console)
    print_report(report, console)
    write_json(report, options.json_path)
    return 0


__all__ = ["SHAPES", "StepOptions", "measure", "run"]
