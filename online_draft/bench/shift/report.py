"""The report of `bench shift`: JSON and table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_draft.bench.machine import machine_facts
from online_draft.bench.shift.events import Event
from online_draft.bench.shift.ladder import shown
from online_draft.bench.shift.mix import Mix
from online_draft.bench.shift.options import ShiftOptions
from online_draft.bench.shift.tally import Tally
from online_draft.learner.config import LearnerConfig
from online_draft.registry.ladder import LadderState


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run came to."""

    tallies: Sequence[Tally]
    events: Sequence[Event]
    ladder: LadderState
    learner: Mapping[str, int]
    failed: int
    checked: int
    changed: int
    near_ties: int
    requests: int
    serving_s: float
    elapsed_s: float
    kernel: str | None
    interrupted: bool


def shift_report(options: ShiftOptions, target: str, drafter: str, found: Findings) -> dict[str, Any]:
    """The JSON."""
    phases = [tally.as_json() for tally in found.tallies]
    simulated = options.simulate
    ladder = found.ladder
    return {
        "target": target,
        "drafter": drafter,
        **machine_facts("cpu"),
        "mode": "simulation" if simulated else "live",
        "kernel": found.kernel,
        "order": list(options.order),
        "window": options.window,
        "tree_nodes": options.tree_nodes,
        "temperature": options.temperature,
        "max_new_tokens": options.max_new_tokens,
        "seed": options.seed,
        "arrivals": {
            "concurrency": 1 if simulated else options.burst,
            "per_second_on_the_ladders_clock" if simulated else "per_second_wanted": options.rate,
            "per_second_measured": round(found.requests / found.elapsed_s, 3) if found.elapsed_s else None,
            "serving_s": round(found.serving_s, 1),
            "elapsed_s": round(found.elapsed_s, 1),
        },
        "learner": {
            "slices_per_request": options.slices if simulated else None,
            "records_per_slice": options.slice_records if simulated else None,
            "mix": asdict(options.mix or Mix.of(LearnerConfig().reservoirs)) if simulated else None,
            **found.learner,
        },
        "ladder": shown(),
        "ceilings": {
            "given": {domain: str(path) for domain, path in options.ceilings},
            "trained_steps": options.ceiling_steps if options.train_ceilings else None,
            "trained_answers": options.ceiling_answers if options.train_ceilings else None,
        }
        if options.ceilings_asked
        else None,
        "interrupted": found.interrupted,
        "phases": phases,
        "summary": summary(phases),
        "versions": {
            "proposed": ladder.proposed,
            "promoted": ladder.promoted,
            "refused": ladder.refused,
            "rolled_back": ladder.rolled_back,
        },
        "events": [event.as_json() for event in found.events],
        "failed_requests": found.failed,
        "changed_outputs": found.changed,
        "near_ties": found.near_ties,
        "checked_outputs": found.checked,
    }


def summary(phases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the sharp phases behind the first, which shifts from nothing; and what a return found."""
    shifted = [phase for phase in phases if phase["kind"] == "sharp"][1:]
    returned = [phase for phase in phases if phase["kind"] == "return"]
    before, after = (returned[0], returned[2]) if len(returned) > 2 else ({}, {})
    return {
        "acceptance_gain": _mean(_minus(p["acceptance_final"], p["acceptance_at_shift"]) for p in shifted),
        "tau_final_over_static": _mean(_over(p["tau_final"], p["tau_static"]) for p in shifted),
        "tau_final_over_ceiling": _mean(_over(p["tau_final"], p["tau_offline_ceiling"]) for p in shifted),
        "requests_to_90_percent_of_gain": _mean(p["requests_to_90_percent_of_gain"] for p in shifted),
        "return": {
            "segment": before.get("segment"),
            "tau_before": before.get("tau_final"),
            "tau_after": after.get("tau_at_shift"),
            "after_over_before": _over(after.get("tau_at_shift"), before.get("tau_final")),
        },
    }


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """One row per phase, then what holds for all."""
    table = Table(title=_title(report), box=SIMPLE, pad_edge=False)
    heads = ("traffic", "n", "τ at shift", "final", "static", "ceiling", "acceptance", "to 90 %")
    for index, name in enumerate(heads):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index != 6)
    for phase in report["phases"]:
        table.add_row(
            f"{phase['kind']} {phase['segment']}",
            str(phase["requests"]),
            *(
                _text(phase[name])
                for name in ("tau_at_shift", "tau_final", "tau_static", "tau_offline_ceiling")
            ),
            f"{_text(phase['acceptance_at_shift'])} → {_text(phase['acceptance_final'])}",
            _text(phase["requests_to_90_percent_of_gain"], 0),
        )
    console.print(table)
    found, versions = report["summary"], report["versions"]
    back = found["return"]
    console.print(
        f"after a shift, mean: acceptance {_text(found['acceptance_gain'], sign='+')}, τ over static "
        f"{_text(found['tau_final_over_static'])}x, over ceiling {_text(found['tau_final_over_ceiling'])}x; "
        f"back on {back['segment'] or '-'}: {_text(back['after_over_before'])}x of before",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"versions: {', '.join(f'{number} {name}' for name, number in versions.items())}; "
        f"{report['failed_requests']} failed; of {report['checked_outputs']} outputs compared with plain "
        f"decoding {report['changed_outputs']} changed, {report['near_ties']} near ties",
        highlight=False,
        soft_wrap=True,
    )


def _title(report: Mapping[str, Any]) -> str:
    learner, arrivals = report["learner"], report["arrivals"]
    how = (
        f"simulated: {learner['slices_per_request']} slices of {learner['records_per_slice']} records after "
        "each request"
        if report["mode"] == "simulation"
        else f"live, {arrivals['per_second_measured']} requests a second in bursts of "
        f"{arrivals['concurrency']} on {report['cores']} cores"
    )
    return f"{report['target']} from {report['drafter']}, {how}; windows of {report['window']}"


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return round(mean(known), 4) if known else None


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _over(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else round(one / other, 4)


def _text(value: float | None, digits: int = 2, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"
