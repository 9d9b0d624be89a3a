"""`bench adapters`: what adapters gain on their own segments, and what they leave as it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from online_draft.bench.adapters.measure import measure
from online_draft.bench.adapters.options import AdapterOptions
from online_draft.bench.adapters.report import print_report
from online_draft.bench.files import write_json


def run(options: AdapterOptions, console: Console | None = None) -> int:
    """Run the benchmark, print tables, write the JSON. Returns 1 if an output changed or a stream was
    disturbed, else 0."""
    console = console or Console()
    if options.work is not None:
        report = measure(options, options.work, console)
    else:
        with tempfile.TemporaryDirectory(prefix="adapters-") as work:
            report = measure(options, Path(work), console)
    print_report(report, console)
    write_json(report, options.json_path)
    changed = report["mixed_batch"]["changed_outputs"] + report["loading"]["changed_outputs"]
    return 1 if changed or report["loading"]["rebuilt"] else 0


__all__ = ["AdapterOptions", "measure", "run"]
