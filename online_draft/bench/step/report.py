"""The report of `bench step`: JSON and table."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_draft.bench.machine import machine_facts
from online_draft.bench.stats import middle, paired_ratios, spread
from online_draft.bench.step.options import StepOptions
from online_draft.models.loading import LoadedTarget

if TYPE_CHECKING:
    from online_draft.bench.step.measure import Cell

SPLIT = ("draft", "forward", "verify", "compaction", "host")


def step_report(
    options: StepOptions,
    loaded: LoadedTarget,
    cells: list[Cell],
    streamed: dict[int, list[tuple[float, float]]],
    peaks: list[float],
) -> dict[str, Any]:
    """The JSON. Times are medians over repeats of medians over steps; ratios are taken repeat by repeat.

    `verify_step_over_plain` compares all of a step but its draft with a plain step, both split by the timer;
    shares are of the 16-row step (the widest one where 16 was not measured) at the first batch size.
    `host_overhead_share` is the engine's own bookkeeping: scheduling, policy, delivery. `peak_gflops` is what
    the compiled kernels reach in cache (null without them), `compute_floor_ms` the time that the products of
    so many rows take at that rate. `streamed` has the floors by bytes: of the weights in their type, and,
    where the kernels hold them in fewer bits, of what a step really reads (`stored_…`).
    """
    weight_bytes, stored_bytes = max(streamed), min(streamed)
    floors, stored_floors = streamed[weight_bytes], streamed[stored_bytes]
    first = [cell for cell in cells if cell.batch == options.batch[0]]
    plain, *trees = first
    reported = next(cell for cell in trees if cell.rows == options.reported_rows)
    plain_steps = [times.step for times in plain.repeats]
    streams = [seconds for seconds, _ in floors]
    stored_streams = [seconds for seconds, _ in stored_floors]
    over_floor = paired_ratios(plain_steps, streams)
    verify = {str(cell.rows): _verify_over_plain(cell, plain) for cell in trees}
    return {
        "target": options.random_init or loaded.name,
        "layers": loaded.config.num_layers,
        "device": options.device,
        "dtype": options.dtype,
        **machine_facts(options.device),
        "context": options.context,
        "repeat": options.repeat,
        "weight_bytes": weight_bytes,
        "plain_step_ms": _ms([times.step for times in plain.repeats]),
        "floor_ms": _ms(streams),
        "floor_min_ms": round(1000 * min(least for _, least in floors), 4),
        "peak_gflops": round(median(peaks) / 1e9, 1) if peaks else None,
        "compute_floor_ms": _compute_floors(options, loaded, weight_bytes, peaks),
        "plain_step_over_floor": middle(over_floor),
        "plain_step_over_floor_spread": spread(over_floor),
        "stored_bytes": stored_bytes,
        "stored_floor_ms": _ms(stored_streams),
        "plain_step_over_stored_floor": middle(paired_ratios(plain_steps, stored_streams)),
        "verify_step_over_plain": {rows: middle(ratios) for rows, ratios in verify.items()},
        "verify_step_over_plain_spread": {rows: spread(ratios) for rows, ratios in verify.items()},
        "reported_rows": reported.rows,
        "draft_share": _share(reported, "draft"),
        "host_overhead_share": _share(reported, "host"),
        "plain_host_overhead_share": _share(plain, "host"),
        "steps": [_entry(cell) for cell in cells],
    }


def _compute_floors(
    options: StepOptions, loaded: LoadedTarget, weight_bytes: int, peaks: list[float]
) -> dict[str, float] | None:
    if not peaks:
        return None
    operations = 2 * weight_bytes / loaded.target.dtype.itemsize
    return {str(rows): round(1000 * rows * operations / median(peaks), 4) for rows in (1, *options.rows)}


def _entry(cell: Cell) -> dict[str, Any]:
    steps = [times.step for times in cell.repeats]
    parts = {name: _ms([times.medians[name] for times in cell.repeats]) for name in SPLIT}
    return {
        "batch": cell.batch,
        "rows": cell.rows,
        "step_ms": _ms(steps),
        "spread_ms": spread([1000 * step for step in steps], 4),
        "parts_ms": parts,
    }


def _verify_over_plain(cell: Cell, plain: Cell) -> list[float]:
    verify = [sum(t.medians.values()) - t.medians["draft"] for t in cell.repeats]
    return paired_ratios(verify, [sum(times.medians.values()) for times in plain.repeats])


def _share(cell: Cell, part: str) -> float:
    return round(median(t.medians[part] / sum(t.medians.values()) for t in cell.repeats), 4)


def _ms(seconds: list[float]) -> float:
    return round(1000 * median(seconds), 4)


def print_report(report: dict[str, Any], console: Console) -> None:
    """The report as a table."""
    about = f"{report['target']}, {report['layers']} layers, on {report['device']}"
    title = f"{about} ({report['threads']} threads, {report['dtype']}), context {report['context']}"
    table = Table(title=title, box=SIMPLE, pad_edge=False)
    for column in ("batch", "rows", "step ms", *SPLIT):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in report["steps"]:
        parts = (f"{entry['parts_ms'][name]:.3f}" for name in SPLIT)
        table.add_row(str(entry["batch"]), str(entry["rows"]), f"{entry['step_ms']:.3f}", *parts)
    console.print(table)
    console.print(
        f"floor {report['floor_ms']:.3f} ms for {report['weight_bytes'] / 1e6:.1f} MB; "
        f"the plain step takes {report['plain_step_over_floor']:.2f} times as long"
    )
    if report["stored_bytes"] < report["weight_bytes"]:
        console.print(
            f"held in {report['stored_bytes'] / 1e6:.1f} MB, which take {report['stored_floor_ms']:.3f} ms: "
            f"{report['plain_step_over_stored_floor']:.2f} times as long"
        )
    if report["peak_gflops"] is not None:
        bounds = "  ".join(f"{rows} rows {ms:.3f}" for rows, ms in report["compute_floor_ms"].items())
        console.print(f"kernels in cache {report['peak_gflops']:.0f} GFLOP/s; at that rate, ms  {bounds}")
    ratios = "  ".join(
        f"{rows} rows {ratio:.2f}×" for rows, ratio in report["verify_step_over_plain"].items()
    )
    console.print(f"verification over a plain step  {ratios}")
    shares = f"draft {report['draft_share']:.1%}, host {report['host_overhead_share']:.1%}"
    console.print(f"shares of the {report['reported_rows']}-row step: {shares}")
