"""`bench interference`."""

from __future__ import annotations

from typing import Annotated

import typer

from online_draft.cli.bench.options import (
    DrafterDir,
    Kernels,
    PromptFile,
    Repeat,
    Target,
    Threads,
    TwoOrMoreTokens,
)
from online_draft.cli.options import JsonOut


def interference(
    target: Target = "embedded",
    drafter: DrafterDir = None,
    prompts: PromptFile = None,
    records: Annotated[int, typer.Option(min=8, help="Answers logged for the learner beforehand.")] = 160,
    repeat: Repeat = 8,
    bursts: Annotated[int, typer.Option(min=1, help="In each repeat, a pause before each.")] = 6,
    burst: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 4,
    pause: Annotated[float, typer.Option(help="Seconds, about, in which the learner works.")] = 1.0,
    floor_share: Annotated[float, typer.Option(help="Of the third mode.")] = 0.1,
    max_new_tokens: TwoOrMoreTokens = 64,
    threads: Threads = None,
    kernels: Kernels = "wait",
    json_out: JsonOut = None,
) -> None:
    """Latency under bursts with the learner off, in idle mode and with a floor share, on a CPU."""
    from online_draft.bench.interference import InterferenceOptions, run

    options = InterferenceOptions(
        target=target,
        drafter=drafter,
        prompts=prompts,
        records=records,
        repeat=repeat,
        bursts=bursts,
        burst=burst,
        pause_s=pause,
        floor_share=floor_share,
        max_new_tokens=max_new_tokens,
        threads=threads,
        kernels=kernels,  # type: ignore[arg-type]  # checked by measure
        json_path=json_out,
    )
    raise typer.Exit(run(options))
