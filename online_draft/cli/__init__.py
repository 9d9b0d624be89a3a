"""The commands: parse, import lazily, call, print.

Exit codes: 0 done; 1 the command's own "no" (a failed request, a changed output, a doctor's finding);
2 wrong usage, setting or state, or something did not start; 3 the demo's margin was not reached in time.
"""

from __future__ import annotations

import sys

import typer

from online_draft.cli import (
    adapter,
    bench,
    buffer,
    config,
    distill,
    keys,
    registry,
    service,
    speculation,
    target,
)
from online_draft.errors import OnlineDraftError

app = typer.Typer(
    name="online-draft",
    help="An LLM endpoint whose draft heads keep learning from the traffic it serves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(service.app)
app.command()(distill.distill)
app.add_typer(config.config_app, name="config")
app.add_typer(keys.keys_app, name="keys")
app.add_typer(registry.drafter_app, name="drafter")
app.add_typer(adapter.adapter_app, name="adapter")
app.add_typer(registry.learner_app, name="learner")
app.add_typer(speculation.speculation_app, name="speculation")
app.add_typer(target.target_app, name="target")
app.add_typer(buffer.buffer_app, name="buffer")
app.add_typer(bench.bench_app, name="bench")


def main() -> None:
    """Run a command. Errors that we raise on purpose are one line and exit code 2."""
    try:
        app()
    except OnlineDraftError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
