"""`bench swap`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from online_draft.cli.bench.options import (
    DrafterDir,
    Kernels,
    PromptFile,
    Target,
    Temperature,
    Threads,
    TreeNodes,
    TwoOrMoreTokens,
)
from online_draft.cli.options import JsonOut


def swap(
    target: Target = "embedded",
    drafter: DrafterDir = None,
    other: Annotated[
        Path | None, typer.Option(metavar="DIR", help="It takes turns with this. Default: embedded narrow.")
    ] = None,
    swaps: Annotated[int, typer.Option(min=1)] = 50,
    streams: Annotated[int, typer.Option(min=1, help="Requests under way at any time.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Between two swaps, at least.")] = 60,
    prompts: PromptFile = None,
    requests: Annotated[int, typer.Option(min=1, help="Different ones; they come again and again.")] = 64,
    max_new_tokens: TwoOrMoreTokens = 96,
    temperature: Temperature = 0.0,
    device: str = "cpu",
    dtype: str = "float32",
    threads: Threads = None,
    tree_nodes: TreeNodes = 16,
    kernels: Kernels = "wait",
    json_out: JsonOut = None,
) -> None:
    """Drafters exchanged under steady load: failed requests, changed outputs, the time that a swap takes."""
    from online_draft.bench.swap import SwapOptions, run

    options = SwapOptions(
        target=target,
        drafter=drafter,
        other=other,
        swaps=swaps,
        streams=streams,
        steps=steps,
        prompts=prompts,
        requests=requests,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        device=device,
        dtype=dtype,
        threads=threads,
        tree_nodes=tree_nodes,
        kernels=kernels,  # type: ignore[arg-type]  # checked by measure
        json_path=json_out,
    )
    raise typer.Exit(run(options))
