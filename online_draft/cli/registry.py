"""`drafter`, `learner`: what a running system knows and decides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from online_draft.cli.admin import open_admin, open_online
from online_draft.cli.options import Key, Model, Offline, Reason, StateDir, Url, Version, read_settings

if TYPE_CHECKING:
    from online_draft.registry.journal import DecisionKind

drafter_app = typer.Typer(help="Drafter versions and decisions about them.", no_args_is_help=True)
learner_app = typer.Typer(help="The learner.", no_args_is_help=True)


def _show(value: Any) -> None:
    print(json.dumps(value, indent=2))


@drafter_app.command("list")
def drafter_list(
    state_dir: StateDir = None,
    url: Url = None,
    admin_key: Key = None,
    model: Model = None,
    offline: Offline = False,
) -> None:
    """Published versions, newest last, with their roles and shares of the traffic."""
    for entry in open_admin(offline, state_dir, url, admin_key, model).drafters():
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
def drafter_show(
    version: Version,
    state_dir: StateDir = None,
    url: Url = None,
    admin_key: Key = None,
    model: Model = None,
    offline: Offline = False,
) -> None:
    """One version: provenance and the decisions about it."""
    _show(open_admin(offline, state_dir, url, admin_key, model).drafter(version))


def _decision_command(name: str, kind: DecisionKind, takes_version: bool, about: str) -> None:
    """A command that makes one decision."""

    def decide(
        version: str | None,
        reason: str,
        state_dir: Path | None,
        url: str | None,
        key: str | None,
        model: str | None,
        offline: bool,
    ) -> None:
        written = open_admin(offline, state_dir, url, key, model).decide(kind, version, reason)
        print(f"decision {written['seq']}: {written['kind']} {written['version'] or ''}".rstrip())

    if takes_version:

        def with_version(
            version: Version,
            reason: Reason = "by hand",
            state_dir: StateDir = None,
            url: Url = None,
            admin_key: Key = None,
            model: Model = None,
            offline: Offline = False,
        ) -> None:
            decide(version, reason, state_dir, url, admin_key, model, offline)

        drafter_app.command(name, help=about)(with_version)
        return

    def without_version(
        reason: Reason = "by hand",
        state_dir: StateDir = None,
        url: Url = None,
        admin_key: Key = None,
        model: Model = None,
        offline: Offline = False,
    ) -> None:
        decide(None, reason, state_dir, url, admin_key, model, offline)

    (learner_app if kind in ("pause", "resume") else drafter_app).command(name, help=about)(without_version)


_decision_command("promote", "promote", True, "Make a version the champion.")
_decision_command("reject", "refuse", True, "Refuse a candidate or canary.")
_decision_command("rollback", "roll_back", False, "Go back to the previous champion.")
_decision_command("pin", "pin", False, "Keep the champion for all traffic, whatever is proposed.")
_decision_command("unpin", "unpin", False, "Let promotions happen again.")
_decision_command("pause", "pause", False, "Stop learning.")
_decision_command("resume", "resume", False, "Learn again.")


@drafter_app.command("push")
def drafter_push(
    directory: Annotated[Path, typer.Argument(help="A drafter: manifest.json and model.safetensors.")],
    name: Annotated[str | None, typer.Option(help="A name; else the next version number.")] = None,
    state_dir: StateDir = None,
    model: Model = None,
) -> None:
    """Register a drafter directory (`distill` makes them) as a version that isn't proven; prints its id."""
    from online_draft.launch.pushing import push_drafter

    pushed = push_drafter(read_settings(flags={"state_dir": state_dir}).of(model), directory, name)
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
def drafter_prune(
    last: Annotated[int, typer.Option(help="Keep this many of the newest.", min=1)] = 10,
    state_dir: StateDir = None,
    model: Model = None,
) -> None:
    """Delete old versions that play no role."""
    from online_draft.launch.admin import open_desk

    desk = open_desk(read_settings(flags={"state_dir": state_dir}).of(model))
    for version in desk.registry.prune(desk.state().in_use, last):
        print(f"deleted {version}")


@learner_app.command("status")
def learner_status(
    state_dir: StateDir = None, url: Url = None, admin_key: Key = None, model: Model = None
) -> None:
    """What the learner does and why."""
    _show(open_online(state_dir, url, admin_key, model).learner())
