"""`bench http`: how much of the engine's speed reaches a client that streams over HTTP."""

from __future__ import annotations

from rich.console import Console

from online_draft.bench.files import write_json
from online_draft.bench.http.measure import measure
from online_draft.bench.http.options import HttpOptions
from online_draft.bench.http.report import print_report


def run(options: HttpOptions, console: Console | None = None) -> int:
    """Run the benchmark, print tables, write the JSON. Returns 1 if a request failed or the two differ."""
    console = console or Console()
    report = measure(options, console)
    print_report(report, console)
    write_json(report, options.json_path)
    return 1 if report["failed"] or report["changed"] else 0


__all__ = ["HttpOptions", "measure", "run"]
