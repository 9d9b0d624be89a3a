"""`bench swap`: what streams notice of a drafter that is exchanged in mid-sentence."""

from __future__ import annotations

from rich.console import Console

from online_draft.bench.files import write_json
from online_draft.bench.swap.measure import measure
from online_draft.bench.swap.options import SwapOptions
from online_draft.bench.swap.report import print_report


def run(options: SwapOptions, console: Console | None = None) -> int:
    """Run the benchmark, print a table, write the JSON. Returns 1 if a request failed or an output changed,
    else 0."""
    console = console or Console()
    report = measure(options, console)
    print_report(report, console)
    write_json(report, options.json_path)
    return 1 if report["failed_requests"] or report["changed_outputs"] else 0


__all__ = ["SwapOptions", "measure", "run"]
