"""`bench`: measurements, most of them without a service."""

from __future__ import annotations

import typer

from online_draft.cli.bench import ablate, churn, decode, http, interference, load, scale, shift, step, swap

bench_app = typer.Typer(help="Reproducible measurements.", no_args_is_help=True)
bench_app.command("decode")(decode.decode)
bench_app.command("load")(load.load)
bench_app.command("step")(step.step)
bench_app.command("http")(http.http)
bench_app.command("churn")(churn.churn)
bench_app.command("swap")(swap.swap)
bench_app.command("interference")(interference.interference)
bench_app.command("ablate")(ablate.ablate)
bench_app.command("shift")(shift.shift)
bench_app.command("scale")(scale.scale)

__all__ = ["bench_app"]
