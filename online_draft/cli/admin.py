"""Whom commands about a system talk to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from online_draft.cli.options import read_settings

if TYPE_CHECKING:
    from online_draft.launch.admin import Admin, OnlineAdmin


def open_admin(
    offline: bool, state_dir: Path | None, url: str | None, key: str | None, model: str | None = None
) -> Admin:
    """The system that runs, or with `offline` the artifact store itself; of it `model`, else the first."""
    if offline:
        from online_draft.launch.admin import OfflineAdmin

        return OfflineAdmin(read_settings(flags={"state_dir": state_dir}).of(model))
    return open_online(state_dir, url, key, model)


def open_online(
    state_dir: Path | None, url: str | None, key: str | None, model: str | None = None
) -> OnlineAdmin:
    """The system at `url`, else the one that runs from the state directory."""
    from online_draft.launch.admin import connect

    return connect(read_settings(flags={"state_dir": state_dir}).state_dir, url, key, model)
