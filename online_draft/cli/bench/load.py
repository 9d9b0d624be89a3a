"""`bench load`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from online_draft.cli.bench.options import (
    MaxNewTokens,
    PromptFile,
    Repeat,
    Speculation,
    Target,
    Temperature,
    Threads,
    TreeNodes,
    numbers,
)
from online_draft.cli.options import JsonOut


def load(
    target: Target = "embedded",
    drafter: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Or synthetic:τ, or ngram. Default: the embedded baseline."),
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="Numbers of clients. Default: 1,2,4,8,16,32.")
    ] = None,
    prompts: PromptFile = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Per run. Default: 6 a client, 64 at least; 256 of a trace.")
    ] = None,
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = 0.0,
    device: str = "cpu",
    dtype: str = "float32",
    threads: Threads = None,
    repeat: Repeat = 5,
    tree_nodes: TreeNodes = 16,
    trace: Annotated[
        Path | None, typer.Option(help="Replay arrivals and lengths: CSV (Azure's columns) or JSON lines.")
    ] = None,
    speedup: Annotated[float, typer.Option(help="Replay the trace so many times as fast.")] = 1.0,
    sequences: Annotated[
        int | None, typer.Option(min=1, help="At once in the engine. Default: all clients; 32 for a trace.")
    ] = None,
    long_prompt: Annotated[
        bool, typer.Option("--long-prompt", help="Also: streams while 1,000-token prompts are admitted.")
    ] = False,
    speculation: Speculation = "auto",
    kernels: Annotated[
        str, typer.Option(help="wait: compiled code; auto: torch until that is built; off: torch.")
    ] = "wait",
    json_out: JsonOut = None,
) -> None:
    """Throughput and latency under many clients, plain and speculative in turns."""
    from online_draft.bench.load import LoadOptions, run

    options = LoadOptions(
        target=target,
        drafter=drafter,
        concurrency=None if concurrency is None else numbers("concurrency", concurrency),
        prompts=prompts,
        requests=requests,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        device=device,
        dtype=dtype,
        threads=threads,
        repeat=repeat,
        tree_nodes=tree_nodes,
        trace=trace,
        speedup=speedup,
        sequences=sequences,
        long_prompt=long_prompt,
        speculation=speculation,  # type: ignore[arg-type]  # checked by measure
        kernels=kernels,  # type: ignore[arg-type]
        json_path=json_out,
    )
    raise typer.Exit(run(options))
