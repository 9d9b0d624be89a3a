"""The report of `bench scale` as tables."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


def print_report(report: dict[str, Any], console: Console) -> None:
    """What a replica costs, what a swap costs, and what gives out at which size."""
    table = Table(title="each replica, each second", box=SIMPLE, pad_edge=False)
    columns = ("", "Redis commands", "µs of its CPU", "bytes in", "bytes out", "store calls", "µs each")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for name in ("idle", "busy"):
        asked, store = report[name]["redis"], report[name]["store"]
        figures = [asked["commands"], asked["cpu_us"], asked["bytes_in"], asked["bytes_out"]]
        figures += [store["calls"], max(store["us"].values(), default=0.0)]
        table.add_row(name, *(f"{figure:,}" for figure in figures))
    console.print(table)
    swap, after = report["swap"], report["swap"]["after_s"]
    console.print(
        f"a promotion is in {after['p50']} s with half of {report['replicas']} replicas, "
        f"in {after['p100']} s with all; "
        f"{swap['calls_a_replica']} calls and {swap['kb_a_replica']} kB of the store each, "
        f"{swap['peak_calls']} calls at once; {swap['missed']} missed it",
        highlight=False,
    )
    sizes = list(report["limits"][0]["used"])
    table = Table(title="what gives out", box=SIMPLE, pad_edge=False)
    for column in ("", "at replicas", *(f"used by {size}" for size in sizes), "of", "unit", "then"):
        table.add_column(column, justify="left" if column in ("", "unit", "then") else "right")
    for limit in report["limits"]:
        used = (f"{limit['used'][size]:,.2f}" for size in sizes)
        at = "–" if limit["at"] is None else f"{limit['at']:,}"
        table.add_row(limit["what"], at, *used, f"{limit['capacity']:,.2f}", limit["unit"], limit["then"])
    console.print(table)
