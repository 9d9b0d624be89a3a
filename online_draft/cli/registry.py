"""`drafter`, `learner`: what a running system knows and decides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from online_draft.cli.options import Reason, Version
from online_draft.cli.system import System, of_running_system, of_store, of_system

if TYPE_CHECKING:
    from online_draft.registry.journal import DecisionKind

drafter_app = typer.Typer(help="Drafter versions and decisions about them.", no_args_is_help=True)
learner_app = typer.Typer(help="The learner.", no_args_is_help=True)


def _show(value: Any) -> None:
    print(json.dumps(value, indent=2))


@drafter_app.command("list")
@of_system
def drafter_list(system: System) -> None:
    """Published versions, newest last, with their roles and shares of the traffic."""
    for entry in system.admin().drafters():
        about = entry.get("error") or f"{entry['kind']}  {entry['bytes'] / 1e6:.1f} MB"
        parent = (entry.get("provenance") or {}).get("parent")
        origin = f"from {parent}" if parent else ""
        share = f"{entry.get('share', 0):.0%}" if entry.get("share") else ""
        print(f"{entry['version']:<24} {about}  {share:>4}  {_roles(entry):<28} {origin}".rstrip())


def _roles(entry: dict[str, Any]) -> str:
    """Who a version is; `previous` with a share is the control group of a watch."""
    control = ["control"] if entry.get("share") and "previous" in entry["roles"] else []
    return ", ".join(entry["roles"] + control)


@drafter_app.command("show")
@of_system
def drafter_show(system: System, version: Version) -> None:
    """One version: provenance and the decisions about it."""
    _show(system.admin().drafter(version))


def _decision_command(name: str, kind: DecisionKind, takes_version: bool, about: str) -> None:
    """A command that makes one decision."""

    def decide(system: System, version: str | None, reason: str) -> None:
        written = system.admin().decide(kind, version, reason)
        print(f"decision {written['seq']}: {written['kind']} {written['version'] or ''}".rstrip())

    if takes_version:

        @drafter_app.command(name, help=about)
        @of_system
        def with_version(system: System, version: Version, reason: Reason = "by hand") -> None:
            decide(system, version, reason)

        return

    @(learner_app if kind in ("pause", "resume") else drafter_app).command(name, help=about)
    @of_system
    def without_version(system: System, reason: Reason = "by hand") -> None:
        decide(system, None, reason)


_decision_command("promote", "promote", True, "Make a version the champion.")
_decision_command("reject", "refuse", True, "Refuse a candidate or canary.")
_decision_command("rollback", "roll_back", False, "Go back to the previous champion.")
_decision_command("pin", "pin", False, "Keep the champion for all traffic, whatever is proposed.")
_decision_command("unpin", "unpin", False, "Let promotions happen again.")
_decision_command("pause", "pause", False, "Stop learning.")
_decision_command("resume", "resume", False, "Learn again.")


@drafter_app.command("push")
@of_store
def drafter_push(
    system: System,
    directory: Annotated[Path, typer.Argument(help="A drafter: manifest.json and model.safetensors.")],
    name: Annotated[str | None, typer.Option(help="A name; else the next version number.")] = None,
) -> None:
    """Register a drafter directory (`distill` makes them) as a version that isn't proven; prints its id."""
    from online_draft.launch.pushing import push_drafter

    pushed = push_drafter(system.settings, directory, name)
    print(pushed.version)
    where = "the system that runs" if pushed.running else "the artifact store"
    known = f"registered with {where}" if pushed.fresh else f"{where} had it already"
    print(
        f"{known}, for target {pushed.target}. It serves nobody and is nobody's candidate.\n"
        f"To let it serve:   online-draft drafter promote {pushed.version}"
        f"{'' if pushed.running else ' --offline'}\n"
        "To go back:        online-draft drafter rollback",
        file=sys.stderr,
    )


@drafter_app.command("prune")
@of_store
def drafter_prune(
    system: System,
    last: Annotated[int, typer.Option(help="Keep this many of the newest.", min=1)] = 10,
) -> None:
    """Delete old versions that play no role."""
    from online_draft.launch.admin import open_desk

    desk = open_desk(system.settings)
    for version in desk.registry.prune(desk.state().in_use, last):
        print(f"deleted {version}")


@learner_app.command("status")
@of_running_system
def learner_status(system: System) -> None:
    """What the learner does and why."""
    _show(system.online().learner())
