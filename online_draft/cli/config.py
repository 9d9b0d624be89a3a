"""`config`: what is set, where that comes from, and what is wrong with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from online_draft.cli.options import Config, Set, flags_of

config_app = typer.Typer(help="Settings.", no_args_is_help=True)

Only = Annotated[str | None, typer.Argument(metavar="[SECTION]", help="Only these: engine, access.keys, …")]
File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A settings file (TOML).")]


@config_app.command("show")
def config_show(
    section: Only = None,
    config: Config = None,
    pairs: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, by name.")] = False,
) -> None:
    """All settings as the service would see them: value, source, meaning. Secrets are masked.

    Sources, the first that says something wins: flag (--set), env (ONLINE_DRAFT_ENGINE__TREE_NODES=8), file
    (--config, else online-draft.toml in the current directory), default.
    """
    from online_draft.errors import ConfigError
    from online_draft.settings_docs import explain

    settings = explain(flags_of(pairs), config)
    if section is not None:
        settings = [each for each in settings if f"{each.name}.".startswith(f"{section}.")]
        if not settings:
            raise ConfigError(section, "there is no such section or setting")
    if as_json:
        about = {
            each.name: {"value": each.value, "source": each.source, "doc": each.doc} for each in settings
        }
        print(json.dumps(about, indent=2))
        return
    widths = [max(len(text(each)) for each in settings) for text in (_name, _value, _source)]
    for each in settings:
        cells = [
            text(each).ljust(width) for text, width in zip((_name, _value, _source), widths, strict=True)
        ]
        print("  ".join([*cells, each.doc]).rstrip())


@config_app.command("check")
def config_check(file: File = None, config: Config = None, pairs: Set = None) -> None:
    """Name every wrong setting with what it accepts; exit code 2 if there is any."""
    from online_draft.settings_docs import find_errors

    wrong = find_errors(flags_of(pairs), file or config)
    for error in wrong:
        print(f"error: {error}", file=sys.stderr)
    if wrong:
        raise typer.Exit(2)
    print("settings are valid")


def _name(setting: Any) -> str:
    return str(setting.name)


def _value(setting: Any) -> str:
    return "-" if setting.value is None else json.dumps(setting.value, ensure_ascii=False)


def _source(setting: Any) -> str:
    return str(setting.source)
