"""Swaps under a steady load, as a replica does them: staged beside running steps, installed between two."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from online_draft.bench.load.clients import Clock
from online_draft.bench.swap.streams import Step, Streams
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError
from online_draft.models.drafter import Drafter
from online_draft.serve.lineup import Lineup, install_lineup, stage_lineup

_PATIENCE = 2000
"""Steps to wait for one without a prompt."""
_CANARY_SHARE, _CONTROL_SHARE = 0.25, 0.1

Way = Callable[[Lineup[Drafter], Drafter, int], list[Lineup[Drafter]]]
"""From one champion to another drafter, the one of a number: all lineups on the way, the last one's alone."""


@dataclass(slots=True)
class Stint:
    """What one lineup did until the next one: `quiet` steps in order, the first right behind its
    installation, then those `beside` the staging of a successor. `which` of the two drafters is champion;
    seconds that staging (None where there was nothing to stage) and installation took; how many steps there
    were before. `before`: steps right before it, where these are what the first is to be compared with."""

    which: int
    staging_s: float | None
    swap_s: float
    first: int = 0
    before: list[Step] = field(default_factory=list)
    quiet: list[Step] = field(default_factory=list)
    beside: list[Step] = field(default_factory=list)


def directly(former: Lineup[Drafter], drafter: Drafter, number: int) -> list[Lineup[Drafter]]:
    """One exchange, as in a rollback to what isn't resident: all sequences change over."""
    return [Lineup(drafter, str(number))]


def by_ladder(former: Lineup[Drafter], drafter: Drafter, number: int) -> list[Lineup[Drafter]]:
    """Canary for a share of the sequences, promotion with the previous one as control group, its end."""
    old, before, new = former.drafter, former.version, str(number)
    return [
        Lineup(old, before, drafter, new, _CANARY_SHARE, f"canary-{number}"),
        Lineup(drafter, new, old, before, _CONTROL_SHARE, f"watch-{number}"),
        Lineup(drafter, new),
    ]


def swap_under_load(
    engine: Engine,
    streams: Streams,
    fetch: Callable[[int], Drafter],
    swaps: int,
    steps: int,
    way: Way = directly,
    done: Callable[[int], None] = lambda number: None,
    clock: Clock = time.perf_counter,
) -> list[Stint]:
    """Swap so many times, each lineup of a way `steps` at least after the one before, before steps that are
    steady; then let the streams end.

    `fetch(number)` makes the drafter of the number-th swap anew, as for a version that was never resident.
    It is called on another thread, like staging. Even numbers are one drafter's, odd ones the other's.
    """
    lineup = Lineup(fetch(0), "0")
    install_lineup(engine, lineup)
    stint = Stint(0, None, 0.0, quiet=[streams.step() for _ in range(steps)])
    stints = []

    def prepare(number: int, former: Lineup[Drafter]) -> tuple[list[Lineup[Drafter]], float]:
        lineups = way(former, fetch(number), number)
        began = clock()
        stage_lineup(engine, lineups[0], former)
        return lineups, clock() - began

    with ThreadPoolExecutor(1, "staging") as pool:
        for number in range(1, swaps + 1):
            prepared = pool.submit(prepare, number, lineup)
            while not prepared.done():
                stint.beside.append(streams.step())
            lineups, staging_s = prepared.result()
            for place, following in enumerate(lineups):
                _wait_until_steady(streams, stint)
                before = stint.quiet[-steps:] if len(lineups) > 1 else []
                began = clock()
                install_lineup(engine, following, lineup)
                swap_s = clock() - began
                which = int(following.version or 0) % 2
                stint = Stint(which, None if place else staging_s, swap_s, streams.steps, before)
                lineup = following
                stints.append(stint)
                stint.quiet += (streams.step() for _ in range(steps))
            done(number)
    streams.finish(no_more=True)
    return stints


def _wait_until_steady(streams: Streams, stint: Stint) -> None:
    for _ in range(_PATIENCE):
        if streams.steady:
            return
        stint.quiet.append(streams.step())
    raise ConfigError("streams", "there is always a prompt under way: ask for fewer, or for longer answers")
