"""`keys`: who may use the endpoint."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from online_draft.cli.options import Config, StateDir, read_settings
from online_draft.errors import ConfigError

if TYPE_CHECKING:
    from online_draft.serve.access.key import ApiKey

keys_app = typer.Typer(
    help="API keys. A running service follows the file within a second.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="The key's name: 1 to 64 of A-Z a-z 0-9 _ . -")]
KeysFile = Annotated[
    Path | None,
    typer.Option("--file", help="Default: access.keys_file, else keys.json in the state directory."),
]
_LIMITS, _RIGHTS = "Limits", "Rights"


@keys_app.command("create")
def keys_create(
    name: Name,
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Whom its requests belong to. Prefix cache, n-grams and replay are shared within a tenant "
            "only. Default: the key's name.",
            rich_help_panel=_RIGHTS,
        ),
    ] = None,
    priority: Annotated[
        int, typer.Option(help="Lower comes first; may be negative.", rich_help_panel=_RIGHTS)
    ] = 0,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn/--no-learn",
            help="Whether the draft heads may learn from its traffic. Without, no record is kept.",
            rich_help_panel=_RIGHTS,
        ),
    ] = True,
    admin: Annotated[
        bool,
        typer.Option(
            "--admin", help="It opens /admin (and a protected /metrics), too.", rich_help_panel=_RIGHTS
        ),
    ] = False,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Names of the models that it may use. Default: all.",
            rich_help_panel=_RIGHTS,
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Default: unlimited.", rich_help_panel=_LIMITS)
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Prompt tokens and answer tokens together. Default: unlimited.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    max_streams: Annotated[
        int | None,
        typer.Option(min=1, help="Requests at the same time. Default: unlimited.", rich_help_panel=_LIMITS),
    ] = None,
    file: KeysFile = None,
    config: Config = None,
    state_dir: StateDir = None,
) -> None:
    """Make a key. Its secret is printed once, on stdout; only its SHA-256 is kept.

    A running service lets it in within a second:

    online-draft keys create alice --requests-per-minute 60 --tokens-per-minute 20000
    """
    from online_draft.serve.access.key import ApiKey, digest_of, new_secret
    from online_draft.serve.access.key_file import changing_keys

    secret = new_secret()
    key = ApiKey(
        name=name,
        digest=digest_of(secret),
        tenant=tenant or name,
        priority=priority,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        max_streams=max_streams,
        learn=learn,
        admin=admin,
        models=None if models is None else tuple(name.strip() for name in models.split(",")),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    key.check("keys create")
    path = _path(file, config, state_dir)
    with changing_keys(path) as keys:
        if any(other.name == name for other in keys):
            raise ConfigError("name", f"{path} has a key {name!r} already; revoke it or choose another name")
        keys.append(key)
    print(secret)
    print(
        f"key {name} (tenant {key.tenant}) is in {path}; the secret above isn't shown again", file=sys.stderr
    )


@keys_app.command("list")
def keys_list(
    file: KeysFile = None,
    config: Config = None,
    state_dir: StateDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The keys in the file. Secrets aren't known to anybody but their owners."""
    keys = _read(_path(file, config, state_dir))
    if as_json:
        fields = [{name: value for name, value in key.as_dict().items() if name != "digest"} for key in keys]
        print(json.dumps(fields, indent=2))
        return
    if not keys:
        print("no keys", file=sys.stderr)
        return
    rows: list[tuple[str, ...]] = [
        (
            "NAME",
            "TENANT",
            "PRIORITY",
            "REQ/MIN",
            "TOK/MIN",
            "STREAMS",
            "LEARN",
            "ADMIN",
            "MODELS",
            "CREATED",
        )
    ]
    rows += [_row(key) for key in keys]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@keys_app.command("revoke")
def keys_revoke(name: Name, file: KeysFile = None, config: Config = None, state_dir: StateDir = None) -> None:
    """Take a key away. A running service refuses it, and ends its open requests, within a second."""
    from online_draft.serve.access.key_file import changing_keys

    path = _path(file, config, state_dir)
    if not any(key.name == name for key in _read(path)):
        raise ConfigError("name", f"{path} has no key {name!r}; `online-draft keys list` shows them")
    with changing_keys(path) as keys:
        keys[:] = [key for key in keys if key.name != name]
    print(f"key {name} is revoked")


def _path(file: Path | None, config: Path | None, state_dir: Path | None) -> Path:
    if file is not None:
        return file.expanduser().absolute()
    return read_settings(config, {"state_dir": state_dir}).keys_file


def _read(path: Path) -> tuple[ApiKey, ...]:
    from online_draft.serve.access.key_file import read_keys

    try:
        return read_keys(path)
    except FileNotFoundError:
        return ()


def _row(key: ApiKey) -> tuple[str, ...]:
    limits = (key.requests_per_minute, key.tokens_per_minute, key.max_streams)
    return (
        key.name,
        key.tenant,
        str(key.priority),
        *("-" if limit is None else str(limit) for limit in limits),
        "yes" if key.learn else "no",
        "yes" if key.admin else "no",
        "all" if key.models is None else ",".join(key.models),
        key.created or "-",
    )
