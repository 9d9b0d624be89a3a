"""`bench` and `distill`: long computations without a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from online_draft.cli.options import JsonOut
from online_draft.errors import ConfigError

bench_app = typer.Typer(help="Reproducible measurements.", no_args_is_help=True)


@bench_app.command("decode")
def bench_decode(
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")] = "embedded",
    methods: Annotated[
        str,
        typer.Option(
            help="Comma-separated: plain, medusa, amphista, synthetic:τ (hits are drawn), hf-generate, "
            "hf-prompt-lookup (transformers' own)."
        ),
    ] = "plain,medusa,amphista",
    drafters: Annotated[list[str] | None, typer.Option("--drafter", metavar="METHOD=DIR")] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines with prompt, messages or turns.")] = None,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    limit: Annotated[int | None, typer.Option(min=1, help="Only this many prompts.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    device: str = "cpu",
    dtype: str = "float32",
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    repeat: Annotated[int, typer.Option(min=1)] = 3,
    tree_nodes: Annotated[int, typer.Option(min=1)] = 16,
    speculation: Annotated[
        str, typer.Option(help="auto: as much as pays; always: tree-nodes at every step; off: none.")
    ] = "auto",
    kernels: Annotated[str, typer.Option(help="wait: compiled code; off: torch.")] = "wait",
    json_out: JsonOut = None,
) -> None:
    """Methods of decoding on the same prompts, interleaved in one run."""
    from online_draft.bench.decode import DecodeOptions, run

    directories = {}
    for pair in drafters or []:
        method, equals, directory = pair.partition("=")
        if not equals:
            raise ConfigError("--drafter", f"{pair!r} is not METHOD=DIR")
        directories[method] = Path(directory)
    options = DecodeOptions(
        target=target,
        methods=tuple(method.strip() for method in methods.split(",")),
        drafters=directories,
        prompts=prompts,
        batch=batch,
        max_new_tokens=max_new_tokens,
        limit=limit,
        temperature=temperature,
        device=device,
        dtype=dtype,
        threads=threads,
        repeat=repeat,
        tree_nodes=tree_nodes,
        speculation=speculation,  # type: ignore[arg-type]  # checked by measure
        kernels=kernels,  # type: ignore[arg-type]
        json_path=json_out,
    )
    raise typer.Exit(run(options))


@bench_app.command("load")
def bench_load(
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")] = "embedded",
    drafter: Annotated[
        str | None, typer.Option(metavar="DIR", help="Or synthetic:τ. Default: the embedded baseline.")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="Numbers of clients. Default: 1,2,4,8,16,32.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines with prompt, messages or turns.")] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Per run. Default: 6 a client, 64 at least; 256 of a trace.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    device: str = "cpu",
    dtype: str = "float32",
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    repeat: Annotated[int, typer.Option(min=1)] = 5,
    tree_nodes: Annotated[int, typer.Option(min=1)] = 16,
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
    speculation: Annotated[
        str, typer.Option(help="auto: as much as pays; always: tree-nodes at every step; off: none.")
    ] = "auto",
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
        concurrency=None if concurrency is None else _numbers("concurrency", concurrency),
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


@bench_app.command("step")
def bench_step(
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")] = "embedded",
    drafter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: the embedded baseline.")
    ] = None,
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
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    repeat: Annotated[int, typer.Option(min=1)] = 5,
    kernels: Annotated[str, typer.Option(help="wait: compiled code; off: torch.")] = "wait",
    json_out: JsonOut = None,
) -> None:
    """One engine step by rows and batch: its parts, and the time that reading the weights takes."""
    from online_draft.bench.step import StepOptions, run

    options = StepOptions(
        target=target,
        drafter=drafter,
        random_init=random_init,
        layers=layers,
        rows=_numbers("rows", rows),
        batch=_numbers("batch", batch),
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


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--{option}", f"{text!r} is not a list of whole numbers") from None


def distill(
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")],
    prompts: Annotated[Path, typer.Option(help="JSON lines with prompt, messages or turns.")],
    out: Annotated[
        Path, typer.Option(help="Where the drafter goes; with several methods, one directory each.")
    ],
    methods: Annotated[str, typer.Option(help="Comma-separated: amphista, medusa.")] = "amphista",
    steps: Annotated[int, typer.Option(min=1, help="Micro-batches of training.")] = 1500,
    minutes: Annotated[float | None, typer.Option(help="At most this long per method.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Records in a micro-batch.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Only this many prompts.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 128,
    temperatures: Annotated[str, typer.Option(help="Comma-separated; prompts take them in turn.")] = "0",
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    work: Annotated[Path | None, typer.Option(help="Where answers and training state lie.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Train anew; answers are kept.")] = False,
    json_out: JsonOut = None,
) -> None:
    """Make a drafter: the target answers prompts, draft heads learn from the answers. Resumable."""
    import json
    from dataclasses import asdict

    from online_draft.bench.progress import Bars
    from online_draft.training.answers import AnswerConfig
    from online_draft.training.distill import DistillConfig, DistillProgress, run

    try:
        heats = tuple(float(part) for part in temperatures.split(","))
    except ValueError:
        raise ConfigError("--temperatures", f"{temperatures!r} is not a list of numbers") from None
    config = DistillConfig(
        target=target,
        prompts=prompts,
        out=out,
        methods=tuple(method.strip() for method in methods.split(",")),
        steps=steps,
        minutes=minutes,
        batch=batch,
        limit=limit,
        answers=AnswerConfig(max_new_tokens=max_new_tokens, temperatures=heats, seed=seed),
        seed=seed,
        device=device,
        dtype=dtype,
        work=work,
        resume=not restart,
    )
    with Bars() as bars:

        def show(now: DistillProgress) -> None:
            note = "" if now.loss is None else f"loss {now.loss:.3f}"
            bars.update(f"{now.phase} {now.method}".strip(), now.done, now.total, note)

        report = run(config, show)
    for method in report.methods:
        print(f"{method.method}: replayed τ {method.tau:.2f} on {report.held_out} held-out answers")
        print(f"  {method.directory}")
    if json_out is not None:
        json_out.write_text(json.dumps(asdict(report), indent=2) + "\n")
