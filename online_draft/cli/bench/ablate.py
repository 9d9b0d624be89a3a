"""`bench ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from online_draft.cli.bench.options import Kernels, Target, TreeNodes
from online_draft.cli.options import JsonOut


def ablate(
    target: Target = "embedded",
    variants: Annotated[
        str | None, typer.Option(help="Comma-separated. Default: those of the preset.")
    ] = None,
    preset: Annotated[str, typer.Option(help="quick: a few variants; full: all.")] = "full",
    seeds: Annotated[int, typer.Option(min=1, help="Drafters trained of each variant.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Micro-batches of training.")] = 160,
    batch: Annotated[int, typer.Option(min=1, help="Records in a micro-batch.")] = 8,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSON lines with prompt, messages or turns. Default: the embedded target's."),
    ] = None,
    answers: Annotated[int, typer.Option(min=1, help="Prompts to answer; a tenth is held out.")] = 640,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 96,
    tree_nodes: TreeNodes = 16,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train, one thread each.")] = 1,
    speed: Annotated[
        str,
        typer.Option(help="Measure tokens/s where missing, again, or skip it (say, while others compute)."),
    ] = "missing",
    speed_prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts decoded for tokens/s.")] = 8,
    repeat: Annotated[int, typer.Option(min=1, help="Times they are decoded.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="While tokens/s are measured.")] = 1,
    kernels: Kernels = "wait",
    max_hours: Annotated[float | None, typer.Option(help="End after this long; run again to go on.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where answers, drafters and rows lie. Default: beside the JSON.")
    ] = None,
    json_out: JsonOut = None,
) -> None:
    """Variants of the drafter, trained with equal data and budget: one table. Resumable."""
    from online_draft.bench.ablate import AblateOptions, run

    options = AblateOptions(
        target=target,
        variants=None if variants is None else tuple(name.strip() for name in variants.split(",")),
        preset=preset,  # type: ignore[arg-type]  # checked by run
        seeds=seeds,
        steps=steps,
        batch=batch,
        prompts=prompts,
        answers=answers,
        max_new_tokens=max_new_tokens,
        tree_nodes=tree_nodes,
        workers=workers,
        speed=speed,  # type: ignore[arg-type]
        speed_prompts=speed_prompts,
        repeat=repeat,
        threads=threads,
        kernels=kernels,  # type: ignore[arg-type]
        max_hours=max_hours,
        json_path=json_out,
        work=work,
    )
    raise typer.Exit(run(options))
