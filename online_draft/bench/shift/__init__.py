"""`bench shift`: traffic moves from domain to domain, and the drafter after it."""

from __future__ import annotations

from rich.console import Console

from online_draft.bench.files import write_json
from online_draft.bench.shift.measure import measure
from online_draft.bench.shift.options import ShiftOptions
from online_draft.bench.shift.picture import can_draw, draw
from online_draft.bench.shift.report import print_report

INTERRUPTED = 130


def run(options: ShiftOptions, console: Console | None = None) -> int:
    """Run the benchmark, print a table, write the JSON and, beside it, a picture. Returns 1 if a request
    failed or an output changed, 130 after Ctrl-C, else 0."""
    console = console or Console()
    options.check()
    if options.json_path is not None and not can_draw():
        console.print("no picture without matplotlib: pip install 'online-draft[plots]'", markup=False)
    report = measure(options, console)
    print_report(report, console)
    write_json(report, options.json_path)
    if options.json_path is not None and can_draw():
        draw(report, options.json_path.with_suffix(".png"))
    if report["failed_requests"] or report["changed_outputs"]:
        return 1
    return INTERRUPTED if report["interrupted"] else 0


__all__ = ["ShiftOptions", "measure", "run"]
