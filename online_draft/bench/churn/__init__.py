"""`bench churn`: clients that read some and vanish, many more than there is room for. What do they leave?"""

from __future__ import annotations

from rich.console import Console

from online_draft.bench.churn.measure import measure
from online_draft.bench.churn.options import ChurnOptions
from online_draft.bench.churn.report import print_report
from online_draft.bench.files import write_json


def run(options: ChurnOptions, console: Console | None = None) -> int:
    """Run it, print a table, write the JSON. Returns 1 if anything was left, failed or hung, else 0."""
    console = console or Console()
    report = measure(options, console)
    print_report(report, console)
    write_json(report, options.json_path)
    return 1 if report["wrong"] else 0


__all__ = ["ChurnOptions", "measure", "run"]
