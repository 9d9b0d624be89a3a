"""Options that several commands share, and how they become settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from online_draft.errors import ConfigError

if TYPE_CHECKING:
    from online_draft.settings import Settings

Config = Annotated[Path | None, typer.Option("--config", help="Settings file (TOML).")]
StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="Where run file, artifacts and journal lie.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting: engine.tree_nodes=8.")
]
Url = Annotated[str | None, typer.Option("--url", help="A system elsewhere: http://host:port.")]
Key = Annotated[
    str | None, typer.Option("--admin-key", envvar="ONLINE_DRAFT_ADMIN_KEY", help="Its admin key.")
]
Model = Annotated[
    str | None, typer.Option("--model", help="Which model, where there are several. Default: the first.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Work on the artifact store; no system runs.")]
Reason = Annotated[str, typer.Option("--reason", help="Kept in the journal.")]
Version = Annotated[str, typer.Argument(help="A version id, see `drafter list`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write the result here.")]


def read_settings(
    config: Path | None = None, flags: dict[str, Any] | None = None, pairs: list[str] | None = None
) -> Settings:
    """Settings from file, environment, flags (nested like the tree) and KEY=VALUE pairs."""
    from online_draft.settings import load_settings

    return load_settings(flags_of(pairs, flags), config)


def flags_of(pairs: list[str] | None, flags: dict[str, Any] | None = None) -> dict[str, Any]:
    """Flags with KEY=VALUE pairs among them, nested like the tree."""
    tree: dict[str, Any] = dict(flags or {})
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError("--set", f"{pair!r} is not KEY=VALUE")
        *path, last = key.split(".")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return tree
