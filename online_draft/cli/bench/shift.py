"""`bench shift`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from online_draft.cli.bench.options import Kernels, Temperature, Threads, TreeNodes, TwoOrMoreTokens
from online_draft.cli.options import JsonOut
from online_draft.errors import ConfigError


def shift(
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="Serve, learn and decide in turns, in this process. Default: a system is started.",
        ),
    ] = False,
    order: Annotated[str, typer.Option(help="Domains, in the order in which they come.")] = (
        "sql,math,python,story"
    ),
    requests_per_segment: Annotated[
        int, typer.Option(min=2, help="Requests of a phase: a multiple of the window.")
    ] = 600,
    phases: Annotated[
        str,
        typer.Option(
            help="sharp: each domain; gradual: the last to the first; return: first, second, first."
        ),
    ] = "sharp,gradual,return",
    drafter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where it starts. Default: the embedded narrow one.")
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Requests that a τ is taken over.")] = 50,
    slices: Annotated[int, typer.Option(min=0, help="Pieces of the learner's work after each request.")] = 2,
    slice_records: Annotated[int, typer.Option(min=1, help="Records of an update.")] = 8,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="ROOM=SHARE,…",
            help="What the simulated learner's batches are drawn from: recent, long, hard, anchor.",
        ),
    ] = None,
    rate: Annotated[float, typer.Option(help="Requests a second; simulated: on the ladder's clock.")] = 1.0,
    burst: Annotated[int, typer.Option(min=1, help="Requests at once, of a live system.")] = 6,
    max_new_tokens: TwoOrMoreTokens = 96,
    temperature: Temperature = 0.6,
    tree_nodes: TreeNodes = 16,
    check_every: Annotated[
        int, typer.Option(min=0, help="Compare every so many answers with plain decoding's; 0: none.")
    ] = 10,
    ceiling: Annotated[
        list[str] | None,
        typer.Option(
            metavar="train|DOMAIN=DIR", help="Also replay drafters of one domain: trained here, or given."
        ),
    ] = None,
    ceiling_steps: Annotated[int, typer.Option(min=1, help="Updates of a ceiling trained here.")] = 500,
    ceiling_answers: Annotated[int, typer.Option(min=1, help="Answers that it is trained on.")] = 500,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    threads: Threads = None,
    kernels: Kernels = "wait",
    json_out: JsonOut = None,
) -> None:
    """Traffic moves from domain to domain: how soon, how far and how safely the drafter follows."""
    from online_draft.bench.shift import ShiftOptions, run
    from online_draft.bench.shift.mix import Mix
    from online_draft.bench.shift.options import TRAIN

    given = []
    for value in ceiling or []:
        domain, equals, directory = value.partition("=")
        if equals:
            given.append((domain, Path(directory)))
        elif value != TRAIN:
            raise ConfigError("--ceiling", f"{value!r} is neither {TRAIN} nor DOMAIN=DIR")
    options = ShiftOptions(
        simulate=simulate,
        drafter=drafter,
        order=tuple(name.strip() for name in order.split(",")),
        requests_per_segment=requests_per_segment,
        kinds=tuple(name.strip() for name in phases.split(",")),
        window=window,
        slices=slices,
        slice_records=slice_records,
        mix=None if mix is None else Mix.parse(mix),
        rate=rate,
        burst=burst,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        tree_nodes=tree_nodes,
        check_every=check_every,
        ceilings=tuple(given),
        train_ceilings=TRAIN in (ceiling or []),
        ceiling_steps=ceiling_steps,
        ceiling_answers=ceiling_answers,
        seed=seed,
        threads=threads,
        kernels=kernels,  # type: ignore[arg-type]  # checked by run
        json_path=json_out,
    )
    raise typer.Exit(run(options))
