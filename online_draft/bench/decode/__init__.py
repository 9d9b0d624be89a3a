"""`bench decode`: methods of decoding compared on the same prompts, interleaved in one run."""

from __future__ import annotations

from rich.console import Console

from online_draft.bench.decode.measure import measure
from online_draft.bench.decode.options import (
    DEFAULT_PROMPTS,
    EMBEDDED_DRAFTERS,
    METHODS,
    PROMPTS,
    DecodeOptions,
    prompt_file,
)
from online_draft.bench.decode.report import print_report
from online_draft.bench.files import write_json


def run(options: DecodeOptions, console: Console | None = None) -> int:
    """Run the benchmark, print a table, write the JSON. Returns 1 if an output changed, else 0."""
    console = console or Console()
    report = measure(options, console)
    print_report(report, console)
    write_json(report, options.json_path)
    return 1 if any(entry["changed_outputs"] for entry in report["methods"].values()) else 0


__all__ = [
    "DEFAULT_PROMPTS",
    "EMBEDDED_DRAFTERS",
    "METHODS",
    "PROMPTS",
    "DecodeOptions",
    "measure",
    "prompt_file",
    "run",
]
