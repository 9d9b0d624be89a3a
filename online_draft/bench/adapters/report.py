"""The report of `bench adapters` as tables."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table


def print_report(report: dict[str, Any], console: Console) -> None:
    """τ by segment and adapter, and what an engine did with them."""
    table = Table(
        title=f"{report['target']}, base {report['drafter']}, rank {report['rank']}: replayed τ on held-out "
        f"answers, {report['tree_nodes']} nodes",
        box=SIMPLE,
        pad_edge=False,
    )
    names = list(report["segments"])
    for column in ("segment", "no adapter", *(f"adapter {name}" for name in names), "gain", "lower bound"):
        table.add_column(column, justify="left" if column == "segment" else "right", no_wrap=True)
    for name, entry in report["segments"].items():
        table.add_row(
            name,
            f"{entry['tau_without']:.2f}",
            *(f"{entry['tau_by_adapter'][other]:.2f}" for other in names),
            f"{entry['tau'] - entry['tau_without']:+.2f}",
            f"{entry['lower_bound']:+.1%}",
        )
    console.print(table)
    mixed, loading = report["mixed_batch"], report["loading"]
    served = "  ".join(
        f"{name} {mixed['tau_shared'][name]:.2f} → {mixed['tau_adapters'][name]:.2f}" for name in names
    )
    console.print(
        f"mixed batch of {mixed['requests']} ({mixed['kernel']}): {mixed['changed_outputs']} changed, "
        f"{mixed['near_ties']} near ties; served τ  {served}"
    )
    console.print(
        f"loading while {loading['streams']} streams run: {loading['changed_outputs']} changed, "
        f"{loading['rebuilt']} rebuilt; took {loading['load_ms']:.1f} ms between two steps"
    )
