"""`bench http`."""

from __future__ import annotations

from typing import Annotated

import typer

from online_draft.cli.bench.options import (
    DrafterDir,
    Kernels,
    MaxNewTokens,
    PromptFile,
    Repeat,
    Speculation,
    Target,
    Temperature,
    numbers,
)
from online_draft.cli.options import JsonOut


def http(
    target: Target = "embedded",
    drafter: DrafterDir = None,
    prompts: PromptFile = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Per run.")] = 48,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    first_tokens: Annotated[int, typer.Option(min=1, help="Requests timed to their first token.")] = 60,
    repeat: Repeat = 5,
    threads: Annotated[int, typer.Option(min=1, help="Of the engine, in both.")] = 1,
    cores: Annotated[
        str | None, typer.Option(help="Cores that everything is pinned to, such as 0,1. Default: all.")
    ] = None,
    speculation: Speculation = "auto",
    kernels: Kernels = "wait",
    json_out: JsonOut = None,
) -> None:
    """Streams over HTTP against the engine alone, in turns: rates, first tokens, and where the time goes."""
    from online_draft.bench.http import HttpOptions, run

    options = HttpOptions(
        target=target,
        drafter=None if drafter is None else str(drafter),
        prompts=prompts,
        batch=batch,
        requests=requests,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        first_tokens=first_tokens,
        repeat=repeat,
        threads=threads,
        cores=None if cores is None else numbers("cores", cores),
        speculation=speculation,  # type: ignore[arg-type]  # checked by measure
        kernels=kernels,  # type: ignore[arg-type]
        json_path=json_out,
    )
    raise typer.Exit(run(options))
