"""`bench churn`."""

from __future__ import annotations

from typing import Annotated

import typer

from online_draft.cli.bench.options import Target
from online_draft.cli.options import JsonOut


def churn(
    minutes: Annotated[float, typer.Option(help="After the warm-up.")] = 20.0,
    clients: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 200,
    sequences: Annotated[int, typer.Option(min=1, help="Requests that the engine runs at a time.")] = 8,
    queue: Annotated[int, typer.Option(min=0, help="Requests that wait; more get a 503.")] = 32,
    warm_up: Annotated[float, typer.Option(help="Seconds before memory is first read.")] = 60.0,
    target: Target = "embedded",
    kernels: Annotated[str, typer.Option(help="auto, wait: compiled code; off: torch.")] = "auto",
    json_out: JsonOut = None,
) -> None:
    """Clients that read some and vanish, more than there is room for: what do they leave behind?"""
    from online_draft.bench.churn import ChurnOptions, run

    options = ChurnOptions(
        minutes=minutes,
        clients=clients,
        sequences=sequences,
        queue=queue,
        warm_up_s=warm_up,
        target=target,
        kernels=kernels,
        json_path=json_out,
    )
    raise typer.Exit(run(options))
