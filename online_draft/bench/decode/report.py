"""The report of `bench decode`: JSON and table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_draft.bench.decode.options import HF_METHODS, heads_of
from online_draft.bench.stats import middle, paired_ratios, spread

if TYPE_CHECKING:
    from online_draft.bench.decode.measure import MethodRun


def method_entry(name: str, run: MethodRun, rates: dict[str, list[float]]) -> dict[str, Any]:
    """A method's entry in the JSON.

    Rates are medians over repeats, `spread` their range; `speedup` (over plain) and `over` (over
    transformers' methods, and over the same heads without n-grams) are medians of the ratios of the same
    repeat. `by_source` says whose guess the tokens were; one a step is the target's own.
    """
    counts = run.method.counts
    tau = counts.committed / max(1, counts.steps)
    ratios = paired_ratios(run.rates, rates["plain"]) if "plain" in rates else []
    others = [other for other in (heads_of(name), *HF_METHODS) if other in rates and other != name]
    speedup = middle(ratios)
    return {
        "tokens": sum(run.tokens),
        "seconds": round(sum(run.seconds), 3),
        "spread": spread(run.rates, 1),
        "tokens_per_second": middle(run.rates, 1),
        "mean_accepted_length": round(tau, 3),
        "acceptance_by_depth": [
            round(a / t, 3) if t else None for a, t in zip(counts.accepted, counts.tried, strict=True)
        ],
        "by_source": {
            "target": counts.committed - counts.accepted_tokens,
            "heads": counts.accepted_tokens - sum(counts.ngram_accepted),
            "ngram": sum(counts.ngram_accepted),
        },
        "speedup": speedup,
        "speedup_spread": spread(ratios),
        "speedup_over_tau": None if speedup is None or not tau else round(speedup / tau, 3),
        "over": {other: middle(paired_ratios(run.rates, rates[other])) for other in others},
        "changed_outputs": run.changed,
        "near_ties": run.near_ties,
        **run.method.speculation(),
    }


def print_report(report: dict[str, Any], console: Console) -> None:
    """The report as a table."""
    title = (
        f"{report['target']} on {report['device']} ({report['threads']} threads, {report['dtype']}), "
        f"{report['prompts']} prompts, batch {report['batch']}, T = {report['temperature']}"
    )
    table = Table(title=title, box=SIMPLE, pad_edge=False)
    for column in ("method", "τ", "tokens/s", "range", "speedup", "/ τ", "changed", "ties"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for method, entry in report["methods"].items():
        low, high = entry["spread"]
        table.add_row(
            method,
            f"{entry['mean_accepted_length']:.2f}",
            f"{entry['tokens_per_second']:.0f}",
            f"{low:.0f}–{high:.0f}",
            _number(entry["speedup"], "×"),
            _number(entry["speedup_over_tau"]),
            "–" if entry["changed_outputs"] is None else str(entry["changed_outputs"]),
            str(entry["near_ties"]),
        )
    console.print(table)
    for method, entry in report["methods"].items():
        if entry["acceptance_by_depth"]:
            depths = "  ".join(_number(accepted) for accepted in entry["acceptance_by_depth"])
            console.print(f"{method}: accepted by depth  {depths}")
        if entry["over"]:
            over = "  ".join(f"{_number(ratio, '×')} {other}" for other, ratio in entry["over"].items())
            console.print(f"{method}: {over}")


def _number(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:.2f}{unit}"
