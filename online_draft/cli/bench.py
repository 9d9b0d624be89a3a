"""`bench`: measurements without a service."""

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
            help="Comma-separated: plain, medusa, amphista, ngram (no heads), amphista+ngram, synthetic:τ "
            "(hits are drawn), hf-generate, hf-prompt-lookup (transformers' own)."
        ),
    ] = "plain,medusa,amphista",
    drafters: Annotated[list[str] | None, typer.Option("--drafter", metavar="METHOD=DIR")] = None,
    prompts: Annotated[
        str, typer.Option(help="default, copying, or JSON lines with prompt, messages or turns.")
    ] = "default",
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
    noise_ranked: Annotated[
        bool, typer.Option(help="Rank trees of sampled answers by the noise of their request.")
    ] = True,
    kernels: Annotated[str, typer.Option(help="wait: compiled code; off: torch.")] = "wait",
    json_out: JsonOut = None,
) -> None:
    """Methods of decoding on the same prompts, interleaved in one run."""
    from online_draft.bench.decode import DecodeOptions, prompt_file, run

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
        prompts=prompt_file(prompts),
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
        noise_ranked=noise_ranked,
        kernels=kernels,  # type: ignore[arg-type]
        json_path=json_out,
    )
    raise typer.Exit(run(options))


@bench_app.command("load")
def bench_load(
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")] = "embedded",
    drafter: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Or synthetic:τ, or ngram. Default: the embedded baseline."),
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


@bench_app.command("swap")
def bench_swap(
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")] = "embedded",
    drafter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: the embedded baseline.")
    ] = None,
    other: Annotated[
        Path | None, typer.Option(metavar="DIR", help="It takes turns with this. Default: embedded narrow.")
    ] = None,
    swaps: Annotated[int, typer.Option(min=1)] = 50,
    streams: Annotated[int, typer.Option(min=1, help="Requests under way at any time.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Between two swaps, at least.")] = 60,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines with prompt, messages or turns.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Different ones; they come again and again.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=2)] = 96,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    device: str = "cpu",
    dtype: str = "float32",
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    tree_nodes: Annotated[int, typer.Option(min=1)] = 16,
    kernels: Annotated[str, typer.Option(help="wait: compiled code; off: torch.")] = "wait",
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


@bench_app.command("interference")
def bench_interference(
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")] = "embedded",
    drafter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: the embedded baseline.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines with prompt, messages or turns.")] = None,
    records: Annotated[int, typer.Option(min=8, help="Answers logged for the learner beforehand.")] = 160,
    repeat: Annotated[int, typer.Option(min=1)] = 8,
    bursts: Annotated[int, typer.Option(min=1, help="In each repeat, a pause before each.")] = 6,
    burst: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 4,
    pause: Annotated[float, typer.Option(help="Seconds, about, in which the learner works.")] = 1.0,
    floor_share: Annotated[float, typer.Option(help="Of the third mode.")] = 0.1,
    max_new_tokens: Annotated[int, typer.Option(min=2)] = 64,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    kernels: Annotated[str, typer.Option(help="wait: compiled code; off: torch.")] = "wait",
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


@bench_app.command("ablate")
def bench_ablate(
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")] = "embedded",
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
    tree_nodes: Annotated[int, typer.Option(min=1)] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train, one thread each.")] = 1,
    speed: Annotated[
        str,
        typer.Option(help="Measure tokens/s where missing, again, or skip it (say, while others compute)."),
    ] = "missing",
    speed_prompts: Annotated[int, typer.Option(min=1, help="Held-out prompts decoded for tokens/s.")] = 8,
    repeat: Annotated[int, typer.Option(min=1, help="Times they are decoded.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="While tokens/s are measured.")] = 1,
    kernels: Annotated[str, typer.Option(help="wait: compiled code; off: torch.")] = "wait",
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


@bench_app.command("shift")
def bench_shift(
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Serve, learn and decide in turns, in this process.")
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
    rate: Annotated[float, typer.Option(help="Requests a second on the promotion ladder's clock.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=2)] = 96,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.6,
    tree_nodes: Annotated[int, typer.Option(min=1)] = 16,
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
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    kernels: Annotated[str, typer.Option(help="wait: compiled code; off: torch.")] = "wait",
    json_out: JsonOut = None,
) -> None:
    """Traffic moves from domain to domain: how soon, how far and how safely the drafter follows."""
    from online_draft.bench.shift import ShiftOptions, run
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
        rate=rate,
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


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--{option}", f"{text!r} is not a list of whole numbers") from None
