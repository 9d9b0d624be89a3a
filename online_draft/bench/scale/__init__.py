"""`bench scale`: what many replicas ask of Redis and the artifact store, and what of it gives out first."""

from __future__ import annotations

from rich.console import Console

from online_draft.bench.files import write_json
from online_draft.bench.scale.measure import measure
from online_draft.bench.scale.options import ScaleOptions
from online_draft.bench.scale.report import print_report


def run(options: ScaleOptions, console: Console | None = None) -> int:
    """Run the measurement, print tables, write the JSON. Returns 1 if a replica missed a promotion."""
    console = console or Console()
    report = measure(options, console)
    print_report(report, console)
    write_json(report, options.json_path)
    return 1 if report["swap"]["missed"] else 0


__all__ = ["ScaleOptions", "measure", "run"]
