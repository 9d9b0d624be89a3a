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


@dataclass(slots=True)
class Stint:
    """What one drafter did from its swap to the next one: `quiet` steps in order, the first right behind the
    swap, then those `beside` the staging of its successor. `which` of the two drafters it was; seconds that
    its own staging and its swap took."""

    which: int
    staging_s: float
    swap_s: float
    quiet: list[Step] = field(default_factory=list)
    beside: list[Step] = field(default_factory=list)


def swap_under_load(
    engine: Engine,
    streams: Streams,
    fetch: Callable[[int], Drafter],
    swaps: int,
    steps: int,
    done: Callable[[int], None] = lambda number: None,
    clock: Clock = time.perf_counter,
) -> list[Stint]:
    """Swap so many times, `steps` apart at least, before steps that are steady; then let the streams end.

    `fetch(number)` makes the drafter of the number-th swap anew, as for a version that was never resident:
    all sequences change over at once and rebuild what it must know of them. It is called on another thread,
    like staging. Even numbers are one drafter's, odd ones the other's.
    """
    lineup = Lineup(fetch(0), "0")
    install_lineup(engine, lineup)
    warm_up = [streams.step() for _ in range(steps)]
    stint = Stint(0, 0.0, 0.0, warm_up)
    stints = []

    def prepare(number: int, former: Lineup[Drafter]) -> tuple[Lineup[Drafter], float]:
        following = Lineup(fetch(number), str(number))
        began = clock()
        stage_lineup(engine, following, former)
        return following, clock() - began

    with ThreadPoolExecutor(1, "staging") as pool:
        for number in range(1, swaps + 1):
            prepared = pool.submit(prepare, number, lineup)
            while not prepared.done():
                stint.beside.append(streams.step())
            following, staging_s = prepared.result()
            _wait_until_steady(streams, stint)
            began = clock()
            install_lineup(engine, following, lineup)
            stint = Stint(number % 2, staging_s, clock() - began)
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
