"""`demo`, `serve`, `down`, `doctor`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from online_draft.cli.options import Config, JsonOut, Set, StateDir, read_settings

app = typer.Typer()


@app.command()
def demo(
    minutes: Annotated[float, typer.Option(help="Give up after this long (exit code 3).", min=0.1)] = 8.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running; `online-draft down` ends it.")
    ] = False,
    json_out: JsonOut = None,
    target: Annotated[str, typer.Option(help="embedded, a directory or a Hub name.")] = "embedded",
    drafter: Annotated[str, typer.Option(help="First drafter: narrow, untrained, a directory.")] = "narrow",
    port: Annotated[int, typer.Option(help="0 picks a free one.")] = 0,
    state_dir: StateDir = None,
) -> None:
    """Serve one domain, shift to another, watch the drafter learn it."""
    from online_draft.bench.demo import DemoOptions, run

    options = DemoOptions(
        minutes=minutes,
        keep=keep,
        json_path=json_out,
        port=port,
        target=target,
        drafter=drafter,
        state_dir=state_dir,
    )
    raise typer.Exit(run(options))


@app.command()
def serve(
    config: Config = None,
    target: Annotated[str | None, typer.Option(help="embedded, a directory or a Hub name.")] = None,
    model_name: Annotated[str | None, typer.Option(help="The model's name in the API.")] = None,
    drafter: Annotated[
        str | None,
        typer.Option(help="First drafter: baseline, narrow, untrained, ngram (no heads), a directory."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, float64.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of one replica.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Replicas.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="A Redis of yours; else a private one.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="A Ray of yours; else a private one.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate and chain (PEM): serve HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    state_dir: StateDir = None,
    pairs: Set = None,
) -> None:
    """Serve until Ctrl-C. Others than this machine need API keys: `online-draft keys create NAME`."""
    flags = {
        "target": target,
        "model_name": model_name,
        "drafter": drafter,
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "replicas": replicas,
        "host": host,
        "port": port,
        "state_dir": state_dir,
        "redis": {"url": redis_url},
        "ray": {"address": ray_address},
        "tls": {"cert": tls_cert, "key": tls_key},
    }
    settings = read_settings(config, flags, pairs)
    from online_draft.launch import LocalSystem

    try:
        with LocalSystem(settings, say=lambda line: print(line, flush=True)) as system:
            assert system.run is not None
            print(f"serving {', '.join(system.run.models)} at {system.run.url}/v1", flush=True)
            print(f"admin key: in {settings.state_dir}/run.json; log: {settings.log_file}", flush=True)
            print("Ctrl-C ends it", flush=True)
            system.wait()
    except KeyboardInterrupt:
        print("ended", flush=True)


@app.command()
def down(state_dir: StateDir = None) -> None:
    """End systems that run from the state directory (a demo kept with --keep too)."""
    from online_draft.launch import end_system, find_run_files

    runs = find_run_files(read_settings(flags={"state_dir": state_dir}).state_dir)
    for run in runs:
        end_system(run)
        print(f"ended the system at {run.url} (pid {run.pid})")
    if not runs:
        print("nothing runs")


@app.command()
def doctor(
    config: Config = None,
    state_dir: StateDir = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Check the service there instead: http://host:port.")
    ] = None,
    admin_key_env: Annotated[
        str, typer.Option(metavar="NAME", help="The environment variable that has its admin key.")
    ] = "ONLINE_DRAFT_ADMIN_KEY",
    state: Annotated[
        bool, typer.Option("--state", help="Check what is kept instead: a restored copy, for instance.")
    ] = False,
) -> None:
    """Check this machine, a service that runs, or what it keeps, and say what to do about each finding."""
    if url is not None:
        from online_draft.doctor import service, show

        raise typer.Exit(show(service.examine(url, os.environ.get(admin_key_env))))
    settings = read_settings(config, {"state_dir": state_dir})
    if state:
        from online_draft.doctor import show
        from online_draft.doctor.state import examine

        raise typer.Exit(show(examine(settings)))
    from online_draft.doctor import run

    raise typer.Exit(run(settings))
