"""`adapter` and `bench adapters`: LoRA on a drafter, one for each segment of traffic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from online_draft.cli.bench import bench_app
from online_draft.cli.options import JsonOut, Reason
from online_draft.cli.system import System, of_store, of_system
from online_draft.errors import ConfigError

adapter_app = typer.Typer(help="Adapters of a drafter, one per segment of traffic.", no_args_is_help=True)


@adapter_app.command("train")
def adapter_train(
    drafter: Annotated[Path, typer.Argument(help="The base: a drafter directory.")],
    segment: Annotated[str, typer.Option(help="Prompts of this domain; requests of this segment.")],
    prompts: Annotated[
        list[Path], typer.Option(help="JSON lines with prompt, messages or turns, and domain. Repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the adapter.")],
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")] = "embedded",
    rank: Annotated[int, typer.Option(min=1)] = 16,
    alpha: Annotated[int | None, typer.Option(min=1, help="Default: twice the rank.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Micro-batches of training.")] = 300,
    minutes: Annotated[float | None, typer.Option(help="Train fewer steps if they take longer.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Records in a micro-batch.")] = 8,
    learning_rate: float = 4e-3,
    limit: Annotated[int | None, typer.Option(min=2, help="Only this many prompts.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=2)] = 128,
    temperatures: Annotated[str, typer.Option(help="Prompts take turns.")] = "0,0.7",
    seed: int = 0,
    device: str = "cpu",
    dtype: str = "float32",
    work: Annotated[Path | None, typer.Option(help="Where answers are kept. Default: beside OUT.")] = None,
    json_out: JsonOut = None,
) -> None:
    """Train an adapter on the target's answers, saved as peft does. Exit code 1: no better than none."""
    from dataclasses import asdict

    from rich.console import Console

    from online_draft.bench.files import write_json
    from online_draft.bench.machine import prepare
    from online_draft.bench.progress import Bars
    from online_draft.training.adapters.run import AdapterRun, run
    from online_draft.training.adapters.student import LoraSizes
    from online_draft.training.adapters.train import AdapterTraining
    from online_draft.training.distillation.answers import AnswerConfig
    from online_draft.training.trainer_config import TrainerConfig

    prepare(device, dtype, None)
    training = AdapterTraining(
        steps=steps,
        minutes=minutes,
        batch=batch,
        lora=LoraSizes(rank, alpha),
        trainer=TrainerConfig(learning_rate=learning_rate, warmup_steps=10),
        seed=seed,
    )
    try:
        turns = tuple(float(part) for part in temperatures.split(","))
    except ValueError:
        raise ConfigError("--temperatures", f"{temperatures!r} is not a list of numbers") from None
    config = AdapterRun(
        drafter=drafter,
        segment=segment,
        prompts=tuple(prompts),
        out=out,
        target=target,
        limit=limit,
        training=training,
        answers=AnswerConfig(max_new_tokens, turns, seed),
        device=device,
        dtype=dtype,
        work=work,
    )
    with Bars(Console(stderr=True)) as bars:

        def show(phase: str, done: int, total: int, loss: float | None) -> None:
            bars.update(phase, done, total, "" if loss is None else f"loss {loss:.3f}")

        report = run(config, show)
    print(
        f"{report.segment}: replayed τ {report.tau:.2f}, without {report.tau_without:.2f} ({report.reason})"
    )
    print(f"  {report.directory}")
    write_json(asdict(report), json_out)
    raise typer.Exit(0 if report.better else 1)


@adapter_app.command("show")
def adapter_show(
    directory: Annotated[Path, typer.Argument(help="An adapter's directory.")],
    drafter: Annotated[Path | None, typer.Option(help="Also check that it belongs to this drafter.")] = None,
) -> None:
    """Check an adapter's files and print its card."""
    import json
    from dataclasses import asdict

    from online_draft.errors import ArtifactError
    from online_draft.models.adapters.files import read_adapter
    from online_draft.models.artifact import base_digest, load_drafter

    adapter = read_adapter(directory)
    if drafter is not None:
        base = load_drafter(drafter)
        adapter.check(base)
        if adapter.card.base_digest != base_digest(base):
            raise ArtifactError(f"the adapter is for another base than {drafter}")
    shown = {**asdict(adapter.card), "rank": adapter.rank, "layers": len(adapter.weights)}
    print(json.dumps(shown, indent=2))


@adapter_app.command("list")
@of_system
def adapter_list(system: System) -> None:
    """Published adapters, newest last, with their segments, bases and roles."""
    for entry in system.admin().adapters():
        about = entry.get("error") or f"{entry['segment']:<16} on {entry['base']}"
        print(f"{entry['adapter']:<16} {about}  {', '.join(entry['roles'])}".rstrip())


@adapter_app.command("push")
@of_store
def adapter_push(
    system: System,
    directory: Annotated[Path, typer.Argument(help="An adapter's directory (`adapter train` makes them).")],
) -> None:
    """Register an adapter of a published drafter; prints its id. It drafts for nobody yet."""
    from online_draft.launch.pushing_adapters import push_adapter

    pushed = push_adapter(system.settings, directory)
    print(pushed.adapter)
    known = "registered" if pushed.fresh else "known already"
    print(
        f"{known}, for segment {pushed.segment} on base {pushed.base}. It drafts for nobody.\n"
        f"To let it draft:   online-draft adapter load {pushed.adapter}"
        f"{'' if pushed.running else ' --offline'}",
        file=sys.stderr,
    )


@adapter_app.command("load")
@of_system
def adapter_load(
    system: System,
    adapter: Annotated[str, typer.Argument(help="An adapter's id, see `adapter list`.")],
    reason: Reason = "by hand",
) -> None:
    """Let an adapter of the champion draft for its segment."""
    written = system.admin().load_adapter(adapter, reason)
    segment = written["numbers"]["segment"]
    print(f"decision {written['seq']}: {written['version']} drafts for {segment}")


@adapter_app.command("drop")
@of_system
def adapter_drop(
    system: System,
    name: Annotated[str, typer.Argument(help="An adapter's id, or its segment.")],
    reason: Reason = "by hand",
) -> None:
    """Let the champion alone draft for a segment again."""
    written = system.admin().drop_adapter(name, reason)
    segment = written["numbers"]["segment"]
    print(f"decision {written['seq']}: {written['version']} drafts for {segment} no more")


@adapter_app.command("prune")
@of_store
def adapter_prune(
    system: System,
    last: Annotated[int, typer.Option(help="Keep this many of the newest.", min=1)] = 10,
) -> None:
    """Delete old adapters that play no role."""
    from online_draft.launch.admin import open_desk
    from online_draft.serve.admin.adapters import AdapterDesk

    desk = open_desk(system.settings)
    for adapter in AdapterDesk(desk).registry.prune(desk.state().adapters_in_use, last):
        print(f"deleted {adapter}")


@bench_app.command("adapters")
def bench_adapters(
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")] = "embedded",
    drafter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The base. Default: the embedded narrow one.")
    ] = None,
    segments: Annotated[str, typer.Option(help="Comma-separated domains, an adapter for each.")] = (
        "python,story"
    ),
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSON lines with prompt and domain. Default: the embedded target's domains."),
    ] = None,
    answers: Annotated[int, typer.Option(min=8, help="Prompts of each segment.")] = 200,
    max_new_tokens: Annotated[int, typer.Option(min=2)] = 96,
    steps: Annotated[int, typer.Option(min=1, help="Micro-batches of training.")] = 120,
    minutes: Annotated[float | None, typer.Option(help="Fewer steps an adapter if they take longer.")] = 1.5,
    rank: Annotated[int, typer.Option(min=1)] = 16,
    tree_nodes: Annotated[int, typer.Option(min=1)] = 16,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    kernels: Annotated[str, typer.Option(help="wait: compiled code; off: torch.")] = "wait",
    work: Annotated[
        Path | None, typer.Option(help="Where answers and adapters lie. Default: a temporary folder.")
    ] = None,
    json_out: JsonOut = None,
) -> None:
    """An adapter each for two segments: τ with and without, a mixed batch, and loading while streams run."""
    from online_draft.bench.adapters import AdapterOptions, run

    options = AdapterOptions(
        target=target,
        drafter=drafter,
        segments=tuple(name.strip() for name in segments.split(",")),
        prompts=prompts,
        answers=answers,
        max_new_tokens=max_new_tokens,
        steps=steps,
        minutes=minutes,
        rank=rank,
        tree_nodes=tree_nodes,
        threads=threads,
        kernels=kernels,  # type: ignore[arg-type]  # checked there
        work=work,
        json_path=json_out,
    )
    raise typer.Exit(run(options))
