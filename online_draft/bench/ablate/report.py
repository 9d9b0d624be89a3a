"""The table of `bench ablate`: means and ranges over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_draft.bench.ablate.data import AblateData
from online_draft.bench.ablate.options import AblateOptions
from online_draft.bench.ablate.rows import Row, RowSpec, read_row
from online_draft.bench.ablate.variants import BASE, RECIPE, VARIANTS, Variant
from online_draft.bench.machine import machine_facts
from online_draft.models.loading import LoadedTarget

_WIDTH = 110
"""Columns that the table takes where no terminal says how many there are."""


def ablate_report(
    options: AblateOptions, loaded: LoadedTarget, data: AblateData, specs: Sequence[RowSpec]
) -> dict[str, Any]:
    """The JSON: settings, and an entry for every variant that has at least one finished row."""
    rows: dict[str, list[Row]] = {}
    for spec in specs:
        row = read_row(spec.path(options.work_directory))
        if row is not None:
            rows.setdefault(spec.variant.name, []).append(row)
    entries = {}
    for name in options.names:
        variant = VARIANTS[name]
        found = _own(rows.get(name, []), variant, rows.get(BASE, []))
        if found:
            entries[name] = _entry(variant, found, loaded)
    for name, entry in entries.items():
        entry["over_base"] = _over(entry, entries.get(BASE)) if name != BASE else None
    trained_rows = sum(len(found) for found in rows.values())
    return {
        "target": loaded.name,
        "fingerprint": loaded.fingerprint,
        **machine_facts("cpu"),
        "threads": options.threads,
        "steps": options.steps,
        "batch": options.batch,
        "seeds": options.seeds,
        "recipe": RECIPE,
        "tree_nodes": options.tree_nodes,
        "max_new_tokens": options.max_new_tokens,
        "training_records": len(data.training("mixed")),
        "held_out": {str(heat): len(records) for heat, records in data.held_out.items()},
        "speed_prompts": min(options.speed_prompts, len(data.held_out[0.0])),
        "repeat": options.repeat,
        "complete": trained_rows == len(specs)
        and all("speed" in r for found in rows.values() for r in found),
        "variants": entries,
    }


def print_report(report: dict[str, Any], console: Console) -> None:
    """The report as a table."""
    title = (
        f"{report['target']}: {report['steps']} steps of {report['batch']} records, "
        f"{report['tree_nodes']} nodes; mean over seeds, ± half the range"
    )
    table = Table(title=title, box=SIMPLE, pad_edge=False)
    columns = ("variant", "τ", "T = 0", "0.7", "1", "draft ms", "tokens/s", "× plain", "weights", "seeds")
    for column in columns:
        table.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
    for name, entry in report["variants"].items():
        table.add_row(
            name,
            _figure(entry["tau"], 2, ranged=True),
            *(_figure(entry["tau_by_temperature"][heat], 2) for heat in entry["tau_by_temperature"]),
            _figure(entry["draft_ms"], 2),
            _figure(entry["tokens_per_second"], 0, ranged=True),
            _figure(entry["speedup"], 2),
            f"{entry['parameters'] / 1e6:.2f}M",
            str(len(entry["seeds"])),
        )
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    console.print(table)
    if not report["complete"]:
        console.print("incomplete: the same command goes on where it was")


def _own(rows: list[Row], variant: Variant, base: list[Row]) -> list[Row]:
    """A variant's rows; those of a `recompute` variant are the base's, judged in its way, without a speed."""
    if variant.recompute is None:
        return rows
    late = str(variant.recompute)
    kept = ("seed", "parameters", "steps", "loss")
    return [{**{k: row[k] for k in kept}, **row["recompute"][late]} for row in base if "recompute" in row]


def _entry(variant: Variant, rows: list[Row], loaded: LoadedTarget) -> dict[str, Any]:
    speeds = [row["speed"] for row in rows if row.get("speed", {}).get("kernels")]
    kernels = speeds[0]["kernels"] if speeds else None
    sizes = variant.sizes_for(loaded.config)
    heats = rows[0]["tau_by_temperature"]
    return {
        "group": variant.group,
        "method": variant.method,
        "sizes": {name: list(v) if isinstance(v, tuple) else v for name, v in sizes.items()},
        "trainer": variant.trainer,
        "data": variant.data,
        "recompute": variant.recompute,
        "parameters": rows[0]["parameters"],
        "seeds": [row["seed"] for row in rows],
        "tau": _statistics([row["tau"] for row in rows], 3),
        "tau_by_temperature": {
            heat: _statistics([row["tau_by_temperature"][heat] for row in rows], 3) for heat in heats
        },
        "kernels": kernels,
        "draft_ms": _of(speeds, "draft_ms", 3),
        "step_ms": _of(speeds, "step_ms", 3),
        "served_tau": _of(speeds, "tau", 3),
        "tokens_per_second": _of(speeds, "tokens_per_second", 1),
        "speedup": _of(speeds, "speedup", 3),
        # The many held-out answers' τ over one step's time: less noise than a few prompts' tokens/s.
        "replayed_tokens_per_second": _statistics(
            [
                1000 * row["tau_by_temperature"]["0.0"] / row["speed"]["step_ms"]
                for row in rows
                if row.get("speed", {}).get("step_ms")
            ],
            1,
        ),
    }


def _over(entry: dict[str, Any], base: dict[str, Any] | None) -> dict[str, float | None]:
    """Ratios of means to the base's."""
    found: dict[str, float | None] = {}
    for name in ("tau", "tokens_per_second", "speedup", "replayed_tokens_per_second"):
        own, other = entry[name], None if base is None else base[name]
        found[name] = round(own["mean"] / other["mean"], 4) if own and other else None
    return found


def _of(speeds: list[Row], name: str, digits: int) -> dict[str, Any] | None:
    return _statistics([speed[name] for speed in speeds if speed[name] is not None], digits)


def _statistics(values: list[float], digits: int) -> dict[str, Any] | None:
    """Mean, range and all values over seeds; None without values."""
    if not values:
        return None
    rounded = [round(value, digits) for value in values]
    return {"mean": round(mean(values), digits), "spread": [min(rounded), max(rounded)], "values": rounded}


def _figure(figures: dict[str, Any] | None, digits: int, ranged: bool = False) -> str:
    if figures is None:
        return "–"
    low, high = figures["spread"]
    half = f" ±{(high - low) / 2:.{digits}f}" if ranged and len(figures["values"]) > 1 else ""
    return f"{figures['mean']:.{digits}f}{half}"
