"""`speculation`: whether a running system drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from online_draft.cli.admin import open_online
from online_draft.cli.options import Key, Model, Reason, StateDir, Url

if TYPE_CHECKING:
    from online_draft.launch.admin import OnlineAdmin

speculation_app = typer.Typer(help="Whether a running system drafts.", no_args_is_help=True)


def _switch(admin: OnlineAdmin, mode: str, reason: str) -> None:
    written = admin.switch_speculation(mode, reason)
    print(f"decision {written['seq']}: {written['kind']}")


@speculation_app.command("status")
def speculation_status(
    state_dir: StateDir = None, url: Url = None, admin_key: Key = None, model: Model = None
) -> None:
    """auto, or off."""
    print(open_online(state_dir, url, admin_key, model).speculation())


@speculation_app.command("on")
def speculation_on(
    reason: Reason = "by hand",
    state_dir: StateDir = None,
    url: Url = None,
    admin_key: Key = None,
    model: Model = None,
) -> None:
    """Draft as much as pays, in all replicas, from the next requests on."""
    _switch(open_online(state_dir, url, admin_key, model), "auto", reason)


@speculation_app.command("off")
def speculation_off(
    reason: Reason = "by hand",
    state_dir: StateDir = None,
    url: Url = None,
    admin_key: Key = None,
    model: Model = None,
) -> None:
    """Decode plainly: slower, and the same output."""
    _switch(open_online(state_dir, url, admin_key, model), "off", reason)
