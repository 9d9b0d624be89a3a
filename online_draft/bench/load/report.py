"""The report of `bench load`: JSON and table."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_draft.bench.load.clients import LoadRun
from online_draft.bench.load.options import LoadOptions
from online_draft.bench.load.stalls import LONG_PROMPT, STREAMS, Stalls
from online_draft.bench.machine import machine_facts
from online_draft.bench.stats import middle, paired_ratios, spread, tails

MODES = ("plain", "speculative")
AGAIN = "again"
"""Plain decoding once more, on an engine of its own: what differs between these two is noise."""


@dataclass(slots=True)
class Runs:
    """The repeats of one load in both modes, the n-th of one beside the n-th of the other."""

    by_mode: dict[str, list[LoadRun]] = field(default_factory=lambda: {mode: [] for mode in (*MODES, AGAIN)})

    def add(self, mode: str, run: LoadRun) -> None:
        """One more repeat."""
        self.by_mode[mode].append(run)

    def ratios(self, mode: str = "speculative") -> list[float]:
        """A mode's throughput over the plain one, repeat by repeat."""
        rates, plain = ([r.tokens_per_second for r in self.by_mode[m]] for m in (mode, "plain"))
        return paired_ratios(rates, plain)


def load_report(
    options: LoadOptions, target: str, runs: dict[str, Runs], stalls: dict[str, list[Stalls]] | None
) -> dict[str, Any]:
    """The JSON. `runs` are keyed by the number of clients, or by "trace".

    Throughputs and ratios are medians over repeats, percentiles are of all repeats' values together;
    `plain_again_ratio` is plain decoding's over itself, measured in the same way.
    """
    report: dict[str, Any] = {
        "target": target,
        "drafter": options.drafter or "baseline",
        "speculation": options.speculation,
        "kernels": options.kernels,
        "device": options.device,
        "dtype": options.dtype,
        **machine_facts(options.device),
        "temperature": options.temperature,
        "max_new_tokens": None if options.trace is not None else options.max_new_tokens,
        "trace": None if options.trace is None else options.trace.name,
        "speedup": None if options.trace is None else options.speedup,
        "repeat": options.repeat,
    }
    for mode in MODES:
        report[mode] = [_entry(load, found.by_mode[mode]) for load, found in runs.items()]
    report["ratio"] = {load: middle(found.ratios()) for load, found in runs.items()}
    report["ratio_spread"] = {load: spread(found.ratios()) for load, found in runs.items()}
    report["plain_again_ratio"] = {load: middle(found.ratios(AGAIN)) for load, found in runs.items()}
    if stalls is not None:
        entries = {mode: _stall_entry(found) for mode, found in stalls.items()}
        report["p99_itl_ratio_long_prompt"] = entries["speculative"]["p99_itl_ratio"]
        report["long_prompt"] = {"prompt_tokens": LONG_PROMPT, "streams": STREAMS, **entries}
    return report


def _entry(load: str, repeats: list[LoadRun]) -> dict[str, Any]:
    rates = [run.tokens_per_second for run in repeats]
    steps = sum(run.counts.steps for run in repeats)
    committed = sum(run.counts.committed for run in repeats)
    return {
        "concurrency": int(load) if load.isdigit() else None,
        "mean_concurrency": middle([run.concurrency for run in repeats], 2),
        "requests": len(repeats[0].ttft),
        "failed": sum(run.failed for run in repeats),
        "tokens_per_second": middle(rates, 1),
        "spread": spread(rates, 1),
        "mean_accepted_length": round(committed / steps, 3) if steps else None,
        "ttft_ms": tails([*chain.from_iterable(run.ttft for run in repeats)]),
        "itl_ms": tails([*chain.from_iterable(run.itl for run in repeats)]),
        "tpot_ms": tails([*chain.from_iterable(run.tpot for run in repeats)]),
    }


def _stall_entry(repeats: list[Stalls]) -> dict[str, Any]:
    ratios = [ratio for stalls in repeats if (ratio := stalls.p99_ratio) is not None]
    return {
        "admissions": sum(stalls.admissions for stalls in repeats),
        "quiet_itl_ms": tails([*chain.from_iterable(stalls.quiet for stalls in repeats)]),
        "admitting_itl_ms": tails([*chain.from_iterable(stalls.admitting for stalls in repeats)]),
        "p99_itl_ratio": middle(ratios),
        "spread": spread(ratios),
    }


def print_report(report: dict[str, Any], console: Console) -> None:
    """The report as a table."""
    about = f"{report['target']} on {report['device']} ({report['threads']} threads, {report['dtype']})"
    title = f"{about}, drafter {report['drafter']}, T = {report['temperature']}"
    table = Table(title=title, box=SIMPLE, pad_edge=False)
    for column in (
        "load",
        "mode",
        "tokens/s",
        "range",
        "ratio",
        "plain again",
        "TTFT p50",
        "p99",
        "ITL p50",
        "p99",
    ):
        table.add_column(column, justify="left" if column == "mode" else "right", no_wrap=True)
    for plain, speculative in zip(report["plain"], report["speculative"], strict=True):
        load = "trace" if plain["concurrency"] is None else str(plain["concurrency"])
        for mode, entry in (("plain", plain), ("spec.", speculative)):
            low, high = entry["spread"]
            waits = (entry[name][tail] for name in ("ttft_ms", "itl_ms") for tail in ("p50", "p99"))
            table.add_row(
                load if mode == "plain" else "",
                mode,
                f"{entry['tokens_per_second']:.0f}",
                f"{low:.0f}–{high:.0f}",
                "" if mode == "plain" else f"{report['ratio'][load]:.2f}×",
                *("–" if wait is None else f"{wait:.1f}" for wait in waits),
            )
    console.print(table)
    noise = ", ".join(f"{ratio:.2f}×" for ratio in report["plain_again_ratio"].values())
    console.print(f"plain over plain, measured in the same way: {noise}")
    if "long_prompt" in report:
        for mode in MODES:
            entry = report["long_prompt"][mode]
            quiet, admitting = entry["quiet_itl_ms"]["p99"], entry["admitting_itl_ms"]["p99"]
            console.print(
                f"{mode}: p99 inter-token latency {quiet} ms, while {LONG_PROMPT:,}-token prompts are "
                f"admitted {admitting} ms ({entry['p99_itl_ratio']}×)"
            )
