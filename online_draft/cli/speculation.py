"""`speculation`: whether a running system drafts."""

from __future__ import annotations

import typer

from online_draft.cli.options import Reason
from online_draft.cli.system import System, of_running_system

speculation_app = typer.Typer(help="Whether a running system drafts.", no_args_is_help=True)


def _switch(system: System, mode: str, reason: str) -> None:
    written = system.online().switch_speculation(mode, reason)
    print(f"decision {written['seq']}: {written['kind']}")


@speculation_app.command("status")
@of_running_system
def speculation_status(system: System) -> None:
    """auto, or off."""
    print(system.online().speculation())


@speculation_app.command("on")
@of_running_system
def speculation_on(system: System, reason: Reason = "by hand") -> None:
    """Draft as much as pays, in all replicas, from the next requests on."""
    _switch(system, "auto", reason)


@speculation_app.command("off")
@of_running_system
def speculation_off(system: System, reason: Reason = "by hand") -> None:
    """Decode plainly: slower, and the same output."""
    _switch(system, "off", reason)
