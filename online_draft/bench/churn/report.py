"""The report of `bench churn` for eyes."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


def print_report(report: dict[str, Any], console: Console) -> None:
    """Memory and files before and after, what happened to requests, what is wrong."""
    table = Table("process", "MB before", "after", "files before", "after", box=SIMPLE)
    for name, before in report["before"].items():
        after = report["after"].get(name, {"memory": 0, "files": 0})
        memory = (f"{one['memory'] / 1e6:,.1f}" for one in (before, after))
        table.add_row(name, *memory, str(before["files"]), str(after["files"]))
    console.print(table)
    outcomes = ", ".join(f"{count:,} times {what}" for what, count in sorted(report["outcomes"].items()))
    console.print(f"{report['requests']:,} requests: {outcomes}", highlight=False)
    for line in report["wrong"] or ["nothing is left"]:
        console.print(line, highlight=False)
