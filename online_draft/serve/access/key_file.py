"""The file of API keys: JSON, replaced as a whole, readable and writable by its owner only."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from online_draft.errors import ConfigError
from online_draft.serve.access.key import ApiKey, check_distinct

DEFAULT_NAME = "keys.json"
_SCHEMA = 1


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys in a file. ConfigError naming the file when it is there and can't be understood.

    FileNotFoundError when it isn't there.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError("access.keys_file", f"{path} can't be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("keys"), list):
        raise ConfigError("access.keys_file", f'{path} must hold {{"schema": 1, "keys": [...]}}')
    if content.get("schema") != _SCHEMA:
        raise ConfigError(
            "access.keys_file", f"{path}: schema {content.get('schema')!r} is unknown, known: {_SCHEMA}"
        )
    keys = tuple(ApiKey.from_entry(entry, str(path)) for entry in content["keys"])
    check_distinct(keys, str(path))
    return keys


def write_keys(path: Path, keys: tuple[ApiKey, ...]) -> None:
    """Replace the file at once, mode 0600. ConfigError when its directory can't be written."""
    content = {"schema": _SCHEMA, "keys": [key.as_dict() for key in keys]}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError("access.keys_file", f"{path} can't be written: {error}") from error


@contextmanager
def changing_keys(path: Path) -> Iterator[list[ApiKey]]:
    """The file's keys as a list to change; written when the block ends well. One changer at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            keys = list(read_keys(path))
        except FileNotFoundError:
            keys = []
        yield keys
        check_distinct(tuple(keys), str(path))
        write_keys(path, tuple(keys))
    finally:
        os.close(lock)
