"""`bench step`."""

from __future__ import annotations

from typing import Annotated

import typer

from online_draft.cli.bench.options import DrafterDir, Kernels, Repeat, Target, Threads, numbers
from online_draft.cli.options import JsonOut


def step(
    target: Target = "embedded",
    drafter: DrafterDir = None,
    random_init: Annotated[
        str | None, typer.Option(metavar="SHAPE", help="135m, 1b or 7b with random weights.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Cut that shape to so many layers.")] = None,
    rows: Annotated[str, typer.Option(help="Rows per sequence, the root included.")] = "8,16,32",
    batch: Annotated[str, typer.Option(help="Sequences.")] = "1",
    context: Annotated[int, typer.Option(min=1, help="Tokens before the root at the start.")] = 200,
    steps: Annotated[int, typer.Option(min=1, help="Timed per repeat.")] = 10,
    device: str = "cpu",
    dtype: str = "float32",
    threads: Threads = None,
    repeat: Repeat = 5,
    kernels: Kernels = "wait",
    json_out: JsonOut = None,
) -> None:
    """One engine step by rows and batch: its parts, and the time that reading the weights takes."""
    from online_draft.bench.step import StepOptions, run

    options = StepOptions(
        target=target,
        drafter=drafter,
        random_init=random_init,
        layers=layers,
        rows=numbers("rows", rows),
        batch=numbers("batch", batch),
        context=context,
        steps=steps,
        device=device,
        dtype=dtype,
        threads=threads,
        repeat=repeat,
        kernels=kernels,  # type: ignore[arg-type]  # checked by measure
        json_path=json_out,
    )
    raise typer.Exit(run(options))
