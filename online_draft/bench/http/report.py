"""The report of `bench http`: JSON and table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_draft.bench.http.options import HttpOptions
from online_draft.bench.load.clients import LoadRun
from online_draft.bench.machine import machine_facts
from online_draft.bench.stats import middle, paired_ratios, percentile, spread, tails


@dataclass(slots=True)
class Runs:
    """The repeats: the n-th of the engine alone beside the n-th over HTTP."""

    engine: list[LoadRun] = field(default_factory=list)
    http: list[dict[str, Any]] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    ttft_engine: list[float] = field(default_factory=list)
    ttft_http: list[float] = field(default_factory=list)

    def add(self, engine: LoadRun, http: dict[str, Any], parts: dict[str, float]) -> None:
        """One more repeat."""
        self.engine.append(engine)
        self.http.append(http)
        self.parts.append(parts)

    @property
    def changed(self) -> int:
        """Repeats in which the two didn't give the same number of tokens."""
        return sum(run.tokens != http["tokens"] for run, http in zip(self.engine, self.http, strict=True))


def http_report(options: HttpOptions, target: str, runs: Runs, event_us: float) -> dict[str, Any]:
    """The JSON. Rates and ratios are medians over repeats, CPU times are of all repeats together."""
    engine = [run.tokens_per_second for run in runs.engine]
    http = [run["tokens"] / run["seconds"] for run in runs.http]
    ratios = paired_ratios(http, engine)
    added = [over - own for over, own in zip(runs.ttft_http, runs.ttft_engine, strict=True)]
    added_s = percentile(added, 50)
    return {
        "target": target,
        "batch": options.batch,
        "requests": options.requests,
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "speculation": options.speculation,
        "kernels": options.kernels,
        "repeat": options.repeat,
        "pinned_to": None if options.cores is None else list(options.cores),
        **machine_facts("cpu"),
        "engine_tokens_per_second": middle(engine, 1),
        "engine_spread": spread(engine, 1),
        "http_tokens_per_second": middle(http, 1),
        "http_spread": spread(http, 1),
        "ratio": middle(ratios),
        "ratio_spread": spread(ratios),
        "failed": sum(run["failed"] for run in runs.http) + sum(run.failed for run in runs.engine),
        "changed": runs.changed,
        "ttft_added_ms_p50": None if added_s is None else round(1000 * added_s, 3),
        "ttft_engine_ms": tails(runs.ttft_engine),
        "ttft_http_ms": tails(runs.ttft_http),
        "profile": _profile(runs, event_us),
    }


def _profile(runs: Runs, event_us: float) -> dict[str, Any]:
    """Milliseconds of CPU for 1,000 tokens, by part, and what an event costs."""
    tokens = sum(run["tokens"] for run in runs.http)
    events = sum(run["events"] for run in runs.http)
    cpu = {name: sum(parts[name] for parts in runs.parts) for name in (runs.parts[0] if runs.parts else ())}
    cpu["client"] = sum(run["cpu_s"] for run in runs.http)
    per_thousand = {name: round(1e6 * seconds / max(1, tokens), 2) for name, seconds in cpu.items()}
    return {
        "cpu_ms_per_1000_tokens": per_thousand,
        "encoding_ms_per_1000_tokens": round(event_us * events / max(1, tokens), 3),
        "encoding_us_per_event": round(event_us, 2),
        "tokens_per_event": round(tokens / max(1, events), 2),
    }


def print_report(report: dict[str, Any], console: Console) -> None:
    """The report as two tables."""
    table = Table("", "tokens/s", "range", "first token p50 (ms)", box=SIMPLE)
    for name in ("engine", "http"):
        low, high = report[f"{name}_spread"]
        rate, first = report[f"{name}_tokens_per_second"], report[f"ttft_{name}_ms"]["p50"]
        table.add_row(name, f"{rate:,.0f}", f"{low:,.0f} to {high:,.0f}", str(first))
    console.print(table)
    low, high = report["ratio_spread"]
    console.print(
        f"over HTTP: {report['ratio']:.3f} of the engine's rate ({low:.3f} to {high:.3f}), first token "
        f"{report['ttft_added_ms_p50']} ms later",
        highlight=False,
    )
    profile = report["profile"]
    table = Table("part", "CPU, ms for 1,000 tokens", box=SIMPLE)
    for name, cost in profile["cpu_ms_per_1000_tokens"].items():
        table.add_row(name, str(cost))
    table.add_row("of the ingress: events as JSON", str(profile["encoding_ms_per_1000_tokens"]))
    console.print(table)
