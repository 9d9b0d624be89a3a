"""`bench scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from online_draft.cli.options import JsonOut


def scale(
    replicas: Annotated[int, typer.Option(min=1, help="Simulated, all in this process.")] = 64,
    seconds: Annotated[float, typer.Option(min=2.0, help="Idle, and again busy.")] = 20.0,
    rate: Annotated[float, typer.Option(min=0.01, help="Requests a second that end on each.")] = 1.0,
    tokens: Annotated[int, typer.Option(min=100, help="Of a request with its answer.")] = 400,
    segments: Annotated[int, typer.Option(min=1)] = 4,
    swaps: Annotated[int, typer.Option(min=1, help="Promotions.")] = 5,
    version_kb: Annotated[int, typer.Option(min=1, help="Of a drafter.")] = 256,
    spread: Annotated[float, typer.Option(min=0.0, help="As scaling.fetch_spread_s.")] = 0.5,
    size: Annotated[int, typer.Option(min=1, help="Replicas to extrapolate to.")] = 1000,
    redis_mb: Annotated[int, typer.Option(min=1, help="Memory that Redis may take.")] = 1024,
    store_ops: Annotated[
        int, typer.Option(min=1, help="Lookups and listings a second of a shared file system.")
    ] = 10_000,
    store_mb_s: Annotated[int, typer.Option(min=1, help="What it reads, in MB/s.")] = 1000,
    json_out: JsonOut = None,
) -> None:
    """What replicas ask of Redis and the artifact store, by unit costs, and what gives out first at 1,000."""
    from online_draft.bench.scale import ScaleOptions, run

    options = ScaleOptions(
        replicas=replicas,
        seconds=seconds,
        rate=rate,
        tokens=tokens,
        segments=segments,
        swaps=swaps,
        version_kb=version_kb,
        spread=spread,
        size=size,
        redis_mb=redis_mb,
        store_ops=store_ops,
        store_mb_s=store_mb_s,
        json_path=json_out,
    )
    raise typer.Exit(run(options))
