"""`target`: which weights a running system's target has, and other ones for it."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from online_draft.cli.options import AsJson, Reason
from online_draft.cli.system import System, of_running_system, of_system

if TYPE_CHECKING:
    from online_draft.launch.admin import OnlineAdmin

target_app = typer.Typer(help="The target's weights.", no_args_is_help=True)

LOOK_EVERY_S = 0.5
PATIENCE_S = 60.0
"""How long replicas may take beside the time that answers are given."""


@target_app.command("show")
@of_system
def target_show(system: System, as_json: AsJson = False) -> None:
    """The target's fingerprint, the version that drafts for it, and its updates so far."""
    shown = system.admin().target()
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    print(f"target      {shown['fingerprint']}")
    if shown["origin"] != shown["fingerprint"]:
        print(f"configured  {shown['origin']}")
    print(f"drafter     {shown['champion'] or 'none'}{' (unproven)' if shown['unproven'] else ''}")
    if shown.get("serving") not in (None, shown["fingerprint"]):
        print(f"serving     {shown['serving']}: {_state(shown)}")
    for update in shown["updates"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(update["at_ms"] / 1000))
        path = update["numbers"].get("path")
        print(f"{update['seq']:>4}  {at}  {update['version']}  {path}  {update['actor']}: {update['reason']}")


@target_app.command("update")
@of_running_system
def target_update(
    system: System,
    path: Annotated[str, typer.Argument(help="A directory or URL with safetensors weights.")],
    reason: Reason = "by hand",
    drain_s: Annotated[
        float, typer.Option(help="Answers that have begun may go on for so long; then they are aborted.")
    ] = 60.0,
    wait: Annotated[bool, typer.Option(help="Until a replica serves the new weights.")] = True,
) -> None:
    """Serve other weights of the same architecture, sizes and tokenizer, without a restart.

    The drafter is kept as a starting point, unproven. Exit code 1 when the replica doesn't get there in time.
    """
    # This machine's paths are the system's where no other system is named.
    whole = path if system.url is not None or "://" in path else str(Path(path).expanduser().absolute())
    with closing(system.online()) as admin:
        decision = admin.update_target(whole, reason, drain_s)
        numbers = decision["numbers"]
        print(f"decision {decision['seq']}: target {decision['version']}, was {numbers['from']}")
        print(f"drafter: {numbers['drafter'] or 'none'}")
        if wait and not _arrived(admin, str(decision["version"]), drain_s + PATIENCE_S):
            raise typer.Exit(1)


def _arrived(admin: OnlineAdmin, fingerprint: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        shown = admin.target()
        if shown["serving"] == fingerprint:
            print("the replica serves it")
            return True
        if time.monotonic() > deadline:
            print(f"not served yet: {_state(shown)}")
            return False
        time.sleep(LOOK_EVERY_S)


def _state(shown: dict[str, Any]) -> str:
    update = shown.get("update") or {}
    return update.get("trouble") or ("waits for answers to end" if update.get("changing") else "on its way")
