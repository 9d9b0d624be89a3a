"""The report of `bench swap`: figures from its steps, JSON and table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_draft.bench.machine import machine_facts
from online_draft.bench.stats import middle, percentile
from online_draft.bench.swap.options import BEHIND, SwapOptions
from online_draft.bench.swap.streams import Step, Streams
from online_draft.bench.swap.swapping import Stint


@dataclass(frozen=True, slots=True)
class Checked:
    """The outputs under swaps against plain decoding's."""

    requests: int
    failed: int
    changed: int
    near_ties: int

    def __add__(self, other: Checked) -> Checked:
        return Checked(
            self.requests + other.requests,
            self.failed + other.failed,
            self.changed + other.changed,
            self.near_ties + other.near_ties,
        )


@dataclass(frozen=True, slots=True)
class Passage:
    """All swaps on one path, and the streams meanwhile."""

    stints: Sequence[Stint]
    streams: Streams


def swap_report(
    options: SwapOptions,
    target: str,
    names: tuple[str, str],
    kernel: str,
    direct: Passage,
    ladder: Passage,
    plain: Sequence[Step],
    checked: Checked,
) -> dict[str, Any]:
    """The JSON. `path` has the figures of both paths, the top level those of the direct one, which costs
    more; requests and outputs are counted over both.

    `swapping_step_extra_over_plain_step`: the time of the swap between two steps plus what the step behind it
    takes beyond the median of its like, in median steps of plain decoding of as many streams. Its like are
    the steady steps before the next lineup; on the ladder, where sequences keep their drafters, those since
    the last one. `following_step_…` is the same of the next steps behind it, in which sequences are handed
    over, `quiet_step_…` of all other steady steps: noise. `tau_dip` is τ in the steps behind swaps over that
    of the same drafters elsewhere.
    """
    plain_s = median(step.seconds for step in plain if step.steady)
    dip = tau_dip(direct.stints)
    paths = {
        "direct": _figures(direct.stints, len(direct.stints), plain_s, dip),
        "ladder": _figures(ladder.stints, options.swaps, plain_s, ladder_dip(ladder)),
    }
    return {
        "target": target,
        "drafter": names[0],
        "other": names[1],
        "speculation": "always",
        "tree_nodes": options.tree_nodes,
        "kernels": options.kernels,
        "kernel": kernel,
        "device": options.device,
        "dtype": options.dtype,
        **machine_facts(options.device),
        "temperature": options.temperature,
        "max_new_tokens": options.max_new_tokens,
        "streams": options.streams,
        "steps_between": options.steps,
        "requests": checked.requests,
        "failed_requests": checked.failed,
        "changed_outputs": checked.changed,
        "near_ties": checked.near_ties,
        "plain_step_ms": round(1000 * plain_s, 3),
        **paths["direct"],
        "tau": {name: _rounded(tau_of(direct.stints, which)) for which, name in enumerate(names)},
        "path": paths,
    }


def _figures(stints: Sequence[Stint], swaps: int, plain_s: float, dip: float | None) -> dict[str, Any]:
    """What a path's swaps took; `lineups` are installed on the way."""
    quiet = [step.seconds for stint in stints for step in stint.quiet[1:] if step.steady]
    return {
        "swaps": swaps,
        "lineups": len(stints),
        "step_ms": _tails([1000 * seconds for seconds in quiet]),
        "swap_ms": _tails([1000 * stint.swap_s for stint in stints]),
        "swapping_step_extra_over_plain_step": _tails([s / plain_s for s in swapping_extras(stints)]),
        "following_step_extra_over_plain_step": _tails([s / plain_s for s in following_extras(stints)]),
        "quiet_step_extra_over_plain_step": _tails([s / plain_s for s in quiet_extras(stints)]),
        "staging_ms": _tails([1000 * s.staging_s for s in stints if s.staging_s is not None]),
        "step_beside_staging_over_quiet_step": middle(_beside_ratios(stints)),
        "tau_dip": _rounded(dip),
    }


_FOLLOWING = 8
"""Steps behind a swap in which all sequences are handed over."""


def swapping_extras(stints: Sequence[Stint]) -> list[float]:
    """Seconds that each swap cost: itself, and the step behind it beyond the median of its like."""
    return [
        stint.swap_s + stint.quiet[0].seconds - like
        for stint in stints
        if (like := _like(stint.before or stint.quiet[1:])) is not None and stint.quiet[0].steady
    ]


def following_extras(stints: Sequence[Stint]) -> list[float]:
    """The same of the steps in which sequences are handed over, the first apart."""
    return _extras(stints, slice(1, _FOLLOWING + 1))


def quiet_extras(stints: Sequence[Stint]) -> list[float]:
    """Seconds that each steady step without a swap took beyond the median of its like."""
    return _extras(stints, slice(_FOLLOWING + 1, None))


def _extras(stints: Sequence[Stint], part: slice) -> list[float]:
    return [
        step.seconds - like
        for stint in stints
        if (like := _like(stint.quiet[_FOLLOWING + 1 :])) is not None
        for step in stint.quiet[part]
        if step.steady
    ]


def tau_of(stints: Sequence[Stint], which: int) -> float | None:
    """Tokens per sequence and step of one drafter, the steps behind swaps apart."""
    steps = [s for stint in stints if stint.which == which for s in (*stint.quiet[BEHIND:], *stint.beside)]
    sequences = sum(step.sequences for step in steps)
    return sum(step.tokens for step in steps) / sequences if sequences else None


def tau_dip(stints: Sequence[Stint]) -> float | None:
    """Tokens in the steps behind swaps, over those that the same drafters would have committed there with
    their τ elsewhere. 1: no dip."""
    taus = [tau_of(stints, which) for which in (0, 1)]
    tokens = expected = 0.0
    for stint in stints:
        tau = taus[stint.which]
        if tau is not None:
            tokens += sum(step.tokens for step in stint.quiet[:BEHIND])
            expected += tau * sum(step.sequences for step in stint.quiet[:BEHIND])
    return tokens / expected if expected else None


def ladder_dip(passage: Passage) -> float | None:
    """As `tau_dip`, where a request is drafted for by one version to its end."""
    behind = {stint.first + step for stint in passage.stints for step in range(BEHIND)}
    elsewhere: dict[int, list[int]] = {}
    near: list[tuple[int, int]] = []
    for answer in passage.streams.answers:
        if answer.version is None:
            continue
        which = int(answer.version) % 2
        for number, tokens in answer.steps.items():
            if number in behind:
                near.append((which, tokens))
            else:
                elsewhere.setdefault(which, []).append(tokens)
    taus = {which: sum(tokens) / len(tokens) for which, tokens in elsewhere.items()}
    known = [(tokens, taus[which]) for which, tokens in near if which in taus]
    expected = sum(tau for _, tau in known)
    return sum(tokens for tokens, _ in known) / expected if expected else None


def _like(steps: Sequence[Step]) -> float | None:
    steady = [step.seconds for step in steps if step.steady]
    return median(steady) if steady else None


def _beside_ratios(stints: Sequence[Stint]) -> list[float]:
    return [
        step.seconds / like
        for stint in stints
        if (like := _like(stint.quiet[1:])) is not None
        for step in stint.beside
        if step.steady
    ]


def _tails(values: Sequence[float]) -> dict[str, float | None]:
    return {f"p{percent}": _rounded(percentile(values, percent)) for percent in (50, 99)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def print_report(report: dict[str, Any], console: Console) -> None:
    """The report as a table."""
    about = f"{report['target']} on {report['device']} ({report['threads']} threads, {report['dtype']})"
    title = f"{about}: {report['swaps']} swaps between {report['drafter']} and {report['other']}"
    table = Table(title=f"{title}, {report['streams']} streams", box=SIMPLE, pad_edge=False)
    paths = report["path"]
    for column in ("", *(f"{path}, {tail}" for path in paths for tail in ("p50", "p99"))):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, label in (
        ("swap_ms", "swap, ms"),
        ("swapping_step_extra_over_plain_step", "swapping step's extra, in plain steps"),
        ("following_step_extra_over_plain_step", "the next steps', in plain steps"),
        ("quiet_step_extra_over_plain_step", "any other step's, in plain steps"),
        ("step_ms", "step, ms"),
        ("staging_ms", "staging, ms"),
    ):
        tails = (found[name][tail] for found in paths.values() for tail in ("p50", "p99"))
        table.add_row(label, *("–" if value is None else f"{value:.3f}" for value in tails))
    console.print(table)
    console.print(
        f"{report['requests']} requests: {report['failed_requests']} failed, {report['changed_outputs']} "
        f"changed, {report['near_ties']} near ties; a plain step takes {report['plain_step_ms']} ms"
    )
    taus = ", ".join(f"{name} {'–' if tau is None else f'{tau:.2f}'}" for name, tau in report["tau"].items())
    console.print(
        f"τ {taus}; in the {BEHIND} steps behind a swap {report['tau_dip']} of that, on "
        f"the ladder {paths['ladder']['tau_dip']}; steps beside staging "
        f"take {report['step_beside_staging_over_quiet_step']} times as long"
    )
