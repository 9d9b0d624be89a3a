"""The report of `bench interference`: JSON and table."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import median
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_draft.bench.interference.options import InterferenceOptions
from online_draft.bench.interference.serving import Latencies
from online_draft.bench.machine import machine_facts
from online_draft.bench.stats import paired_ratios, percentile, tails

MODES = ("off", "idle", "floor", "off again")
"""Of the learner. `off again` is measured like `off`: what differs between these two is noise."""

_RESAMPLES = 2000


@dataclass(slots=True)
class Turn:
    """One repeat in one mode. Of each burst that found the learner working: seconds until it was off the CPU.
    `taken_s` is the CPU time that it took while requests were under way, which was `busy_s`."""

    latencies: Latencies = field(default_factory=Latencies)
    off_cpu_s: list[float] = field(default_factory=list)
    taken_s: float = 0.0
    busy_s: float = 0.0
    slices: int = 0


def interference_report(
    options: InterferenceOptions, target: str, drafter: str, kernel: str, turns: dict[str, list[Turn]]
) -> dict[str, Any]:
    """The JSON. `turns` by mode, the n-th of one beside the n-th of the others.

    A ratio is the median over repeats of a mode's percentile over that of `off` in the same repeat, `low` and
    `high` its 95 % interval by bootstrap over repeats. `off_cpu_ms` is the time from a burst's admission,
    where the learner was working, to the last 5 ms of which its process took half of a CPU, in mode `idle`.
    """
    idle = [*chain.from_iterable(turn.off_cpu_s for turn in turns["idle"])]
    return {
        "target": target,
        "drafter": drafter,
        "kernels": options.kernels,
        "kernel": kernel,
        "device": "cpu",
        **machine_facts("cpu"),
        "repeat": options.repeat,
        "bursts": options.bursts,
        "burst": options.burst,
        "pause_s": options.pause_s,
        "floor_share": options.floor_share,
        "max_new_tokens": options.max_new_tokens,
        "modes": {mode: _entry(found) for mode, found in turns.items()},
        "p99_itl_ratio": _ratios(turns, "itl", 99),
        "p50_itl_ratio": _ratios(turns, "itl", 50),
        "p50_ttft_ratio": _ratios(turns, "ttft", 50),
        "off_cpu_ms": {"admissions": len(idle), **tails(idle)},
    }


def _entry(turns: Sequence[Turn]) -> dict[str, Any]:
    busy = sum(turn.busy_s for turn in turns)
    return {
        "requests": sum(len(turn.latencies.ttft) for turn in turns),
        "failed": sum(turn.latencies.failed for turn in turns),
        "ttft_ms": tails([*chain.from_iterable(turn.latencies.ttft for turn in turns)]),
        "itl_ms": tails([*chain.from_iterable(turn.latencies.itl for turn in turns)]),
        "learner_slices": sum(turn.slices for turn in turns),
        "learner_cpu_while_busy": round(sum(turn.taken_s for turn in turns) / busy, 4) if busy else None,
    }


def _ratios(turns: dict[str, list[Turn]], what: str, percent: float) -> dict[str, dict[str, float] | None]:
    figures = {
        mode: [percentile(getattr(turn.latencies, what), percent) or 0.0 for turn in found]
        for mode, found in turns.items()
    }
    return {
        mode: median_interval(paired_ratios(values, figures["off"]))
        for mode, values in figures.items()
        if mode != "off"
    }


def median_interval(values: Sequence[float], seed: int = 0) -> dict[str, float] | None:
    """The median with its 95 % interval by bootstrap; the same every time. None without values."""
    if not values:
        return None
    rng = random.Random(seed)
    drawn = sorted(median(rng.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    low, high = percentile(drawn, 2.5), percentile(drawn, 97.5)
    assert low is not None and high is not None
    return {"median": round(median(values), 3), "low": round(low, 3), "high": round(high, 3)}


def print_report(report: dict[str, Any], console: Console) -> None:
    """The report as a table."""
    about = f"{report['target']}, drafter {report['drafter']} ({report['threads']} threads)"
    load = f"bursts of {report['burst']}, pauses of {report['pause_s']} s, {report['repeat']} repeats"
    table = Table(title=f"{about}: {load}", box=SIMPLE, pad_edge=False)
    for column in (
        "learner",
        "TTFT p50",
        "p99",
        "ITL p50",
        "p99",
        "p99 over off",
        "CPU while busy",
        "slices",
    ):
        table.add_column(column, justify="left" if column == "learner" else "right", no_wrap=True)
    for mode, entry in report["modes"].items():
        waits = (entry[name][tail] for name in ("ttft_ms", "itl_ms") for tail in ("p50", "p99"))
        ratio = report["p99_itl_ratio"].get(mode)
        table.add_row(
            mode,
            *("–" if wait is None else f"{wait:.1f}" for wait in waits),
            "" if ratio is None else f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})",
            "" if entry["learner_cpu_while_busy"] is None else f"{entry['learner_cpu_while_busy']:.1%}",
            str(entry["learner_slices"]),
        )
    console.print(table)
    off = report["off_cpu_ms"]
    console.print(
        f"{off['admissions']} bursts found it working in mode idle; off the CPU after {off['p50']} ms (p50), "
        f"{off['p99']} ms (p99)"
    )
