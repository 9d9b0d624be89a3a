"""`distill`: make draft heads for a model, without a service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from online_draft.cli.options import JsonOut
from online_draft.errors import ConfigError

if TYPE_CHECKING:
    from online_draft.training.distillation.distill_config import DistillProgress, DistillReport

STOPPED = 130
"""Exit code of a run that was asked to stop."""

_DATA, _HEADS, _TRAINING, _RUN = "Answers", "Draft heads", "Training", "The run"


def distill(
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")],
    prompts: Annotated[
        list[Path],
        typer.Option(
            help="JSON lines with prompt, messages or turns, or a directory saved by datasets. Repeatable."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Where the drafter goes; with several methods, one directory each.")
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only this many prompts.", rich_help_panel=_DATA)
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Length of an answer.", rich_help_panel=_DATA)
    ] = 128,
    temperatures: Annotated[
        str, typer.Option(help="Comma-separated; prompts take them in turn.", rich_help_panel=_DATA)
    ] = "0",
    answer_batch: Annotated[
        int, typer.Option(min=1, help="Prompts answered at the same time.", rich_help_panel=_DATA)
    ] = 32,
    methods: Annotated[
        str, typer.Option(help="Comma-separated: amphista, medusa.", rich_help_panel=_HEADS)
    ] = "amphista",
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            metavar="NAME=NUMBER",
            help="A size of Amphista: num_heads, markov_rank, window, … Repeatable.",
            rich_help_panel=_HEADS,
        ),
    ] = None,
    draft_vocab: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Tokens that the heads score, the most frequent in the answers; 0: all. Default: all, or "
            "what was emitted, at most 32,768, where the target has 65,536 or more.",
            rich_help_panel=_HEADS,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Updates.", rich_help_panel=_TRAINING)] = 1500,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a micro-batch.", rich_help_panel=_TRAINING)] = 8,
    max_tokens: Annotated[
        int, typer.Option(min=4, help="Longest row; longer records are cut.", rich_help_panel=_TRAINING)
    ] = 512,
    pack: Annotated[
        bool,
        typer.Option("--pack/--no-pack", help="Rows hold several records.", rich_help_panel=_TRAINING),
    ] = False,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Micro-batches of an update.", rich_help_panel=_TRAINING)
    ] = 1,
    learning_rate: Annotated[float, typer.Option(help="At its highest.", rich_help_panel=_TRAINING)] = 4e-3,
    warmup: Annotated[
        int,
        typer.Option(min=0, help="Updates up to there; a cosine down follows.", rich_help_panel=_TRAINING),
    ] = 20,
    weight_decay: Annotated[float, typer.Option(min=0.0, rich_help_panel=_TRAINING)] = 0.0,
    clip_norm: Annotated[float, typer.Option(help="Longest gradient.", rich_help_panel=_TRAINING)] = 1.0,
    anchors: Annotated[
        int, typer.Option(min=1, help="Positions of a record in one update.", rich_help_panel=_TRAINING)
    ] = 48,
    loss: Annotated[
        str,
        typer.Option(help="kl+ce, kl, ce, reverse_kl, js, tv, tvd++ or overlap.", rich_help_panel=_TRAINING),
    ] = "kl+ce",
    ema: Annotated[
        float, typer.Option(help="Average the weights over updates, e.g. 0.99.", rich_help_panel=_TRAINING)
    ] = 0.0,
    eval_every: Annotated[
        int,
        typer.Option(min=0, help="Updates between two looks at τ; 0: none.", rich_help_panel=_TRAINING),
    ] = 100,
    eval_records: Annotated[
        int, typer.Option(min=1, help="Held-out answers of a look.", rich_help_panel=_TRAINING)
    ] = 64,
    patience: Annotated[
        int,
        typer.Option(
            min=0, help="End after so many looks without a better τ; 0: never.", rich_help_panel=_TRAINING
        ),
    ] = 10,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Fewer updates per method if more take longer; the cosine fits.", rich_help_panel=_TRAINING
        ),
    ] = None,
    max_hours: Annotated[
        float | None,
        typer.Option(
            help="End then with the best so far; the same command goes on later.", rich_help_panel=_RUN
        ),
    ] = None,
    seed: Annotated[int, typer.Option(rich_help_panel=_RUN)] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", rich_help_panel=_RUN)] = "cpu",
    dtype: Annotated[
        str,
        typer.Option(
            help="float32 or bfloat16: the target's; heads are trained in float32.", rich_help_panel=_RUN
        ),
    ] = "float32",
    work: Annotated[
        Path | None,
        typer.Option(help="Where answers and training state lie. Default: OUT.work.", rich_help_panel=_RUN),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Train anew; answers are kept.", rich_help_panel=_RUN)
    ] = False,
    json_out: JsonOut = None,
) -> None:
    """Make a drafter: the target answers prompts, draft heads learn from the answers.

    Ctrl-C stops between two steps with everything saved; the same command goes on from there.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from online_draft.bench.progress import Bars
    from online_draft.training.distillation.answers import AnswerConfig
    from online_draft.training.distillation.distill import run
    from online_draft.training.distillation.distill_config import DistillConfig, DistillPaused
    from online_draft.training.distillation.stopping import Stop
    from online_draft.training.trainer_config import TrainerConfig

    config = DistillConfig(
        target=target,
        prompts=tuple(prompts),
        out=out,
        methods=tuple(method.strip() for method in methods.split(",")),
        steps=steps,
        minutes=minutes,
        max_hours=max_hours,
        batch=batch,
        pack=pack,
        limit=limit,
        answers=AnswerConfig(
            max_new_tokens=max_new_tokens,
            temperatures=_temperatures(temperatures),
            seed=seed,
            batch=answer_batch,
        ),
        trainer=TrainerConfig(
            learning_rate=learning_rate,
            warmup_steps=warmup,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            anchors=anchors,
            max_tokens=max_tokens,
            loss=loss,  # type: ignore[arg-type]  # checked there
            ema=ema,
            accumulate=accumulate,
        ),
        sizes=_sizes(sizes or []),
        draft_vocab=draft_vocab,
        eval_every=eval_every,
        eval_records=eval_records,
        patience=patience,
        seed=seed,
        device=device,
        dtype=dtype,
        work=work,
        resume=not restart,
    )
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, highlight=False)

    stop = Stop(max_hours, lambda: say("stopping after this step; once more to stop at once"))
    with stop, Bars(console) as bars:

        def show(now: DistillProgress) -> None:
            bars.update(f"{now.phase} {now.method}".strip(), now.done, now.total, _note(now))

        try:
            report = run(config, show, stop=stop, say=say)
        except DistillPaused as paused:
            say(str(paused))
            raise typer.Exit(STOPPED) from None
    _print(report)
    if json_out is not None:
        json_out.write_text(json.dumps(asdict(report), indent=2) + "\n")


def _note(now: DistillProgress) -> str:
    loss = "" if now.loss is None else f"loss {now.loss:.3f}"
    return loss if now.tau is None else f"{loss}  τ {now.tau:.2f}"


def _print(report: DistillReport) -> None:
    for method in report.methods:
        print(f"{method.method}: replayed τ {method.tau:.2f} on {method.records} held-out answers")
        best = f"weights of step {method.best_step}"
        if method.ended == "time":
            print(f"  time is up at step {method.steps} ({best}); the same command goes on", file=sys.stderr)
        elif method.ended == "patience":
            print(f"  ended at step {method.steps}, τ got no better ({best})", file=sys.stderr)
        print(f"  {method.directory}")


def _temperatures(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError("--temperatures", f"{text!r} is not a list of numbers") from None


def _sizes(pairs: list[str]) -> dict[str, Any]:
    from dataclasses import fields

    from online_draft.models.amphista import AmphistaConfig

    known = {field.name for field in fields(AmphistaConfig)} - {
        "hidden_size",
        "vocab_size",
        "draft_vocab_size",
    }
    sizes: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in known:
            raise ConfigError("--size", f"{name!r} is not one of {', '.join(sorted(known))}")
        try:
            parts = [float(part) if "." in part else int(part) for part in value.split(",")]
        except ValueError:
            raise ConfigError("--size", f"{pair!r} is not NAME=NUMBER") from None
        several = name in ("sources", "feature_layers")
        if len(parts) > 1 and not several:
            raise ConfigError("--size", f"{name} is one number, got {value!r}")
        sizes[name] = tuple(parts) if several else parts[0]
    return sizes
