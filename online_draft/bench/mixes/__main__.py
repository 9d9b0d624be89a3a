"""`python -m online_draft.bench.mixes [--mix ROOM=SHARE,…]… [--seeds 0,1] [--json OUT]`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from online_draft.bench.files import write_json
from online_draft.bench.machine import machine_facts, prepare
from online_draft.bench.mixes.measure import MIXES, MixOptions, Outcome, answers, learn
from online_draft.bench.progress import Bars
from online_draft.bench.shift.mix import Mix
from online_draft.models.loading import load_target


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m online_draft.bench.mixes", description=__doc__)
    parser.add_argument("--mix", type=Mix.parse, action="append", help="a mix; several times; default: five")
    parser.add_argument("--seeds", default="0,1", help="of the traffic and the learner")
    parser.add_argument("--requests", type=int, default=MixOptions().requests, help="of each domain")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--json", type=Path, default=None, help="where the report goes")
    given = parser.parse_args()
    prepare("cpu", "float32", given.threads)
    options, mixes = MixOptions(requests=given.requests), given.mix or MIXES
    seeds = [int(seed) for seed in given.seeds.split(",")]
    loaded = load_target("embedded")
    found: list[Outcome] = []
    with Bars(Console(stderr=True)) as bars:
        for seed in seeds:
            made = answers(options, loaded, seed)
            for mix in mixes:
                found.append(learn(options, loaded, mix, seed, made))
                bars.update("runs", len(found), len(seeds) * len(mixes), f"{mix}, seed {seed}")
                runs = [outcome.as_json() for outcome in found]
                write_json({**machine_facts("cpu"), **asdict(options), "runs": runs}, given.json)
    Console().print(_table(found, options))


def _table(found: list[Outcome], options: MixOptions) -> Table:
    first, second = options.order
    title = f"replayed τ, mean over {len({outcome.seed for outcome in found})} seeds"
    table = Table(title=title, box=SIMPLE, pad_edge=False)
    table.add_column("mix")
    for name in (f"{first} learnt", f"{second} half-way", f"{second} learnt", f"{first} after", "kept"):
        table.add_column(name, justify="right")
    for mix in dict.fromkeys(outcome.mix for outcome in found):
        runs = [outcome for outcome in found if outcome.mix == mix]
        cells = (
            [run.first[1] for run in runs], [run.second[1] for run in runs], [run.second[2] for run in runs],
            [run.first[2] for run in runs], [run.kept for run in runs],
        )  # fmt: skip
        table.add_row(str(mix), *(f"{mean(values):.3f}" for values in cells))
    return table


if __name__ == "__main__":
    main()
