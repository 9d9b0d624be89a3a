"""Logs: as text or JSON lines, to stderr or one rotated file that all processes of a service share.

No line holds a word of a prompt or an answer: callers log names and numbers, and of an exception only its
type and where it was raised are written, its message only where it can't quote a client (`SAFE`).
Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal, get_args

from online_draft.errors import ArtifactError, ConfigError, JournalError, LaunchError, StoreError, TargetError

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

SAFE = (ArtifactError, ConfigError, JournalError, LaunchError, StoreError, TargetError, OSError)
"""Errors about the service, whose messages never quote a request."""

ROOT = "online_draft"

_context: ContextVar[Mapping[str, str] | None] = ContextVar("online_draft_log_context", default=None)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How much, in which format and where. A `file` (None: stderr) is renamed at `max_bytes` to `.1`, that to
    `.2`, and so on; `backups` of those are kept."""

    level: LogLevel = "info"
    format: LogFormat = "text"
    file: str | None = None
    max_bytes: int = 10_000_000
    backups: int = 5

    def __post_init__(self) -> None:
        for name, accepted in (("level", get_args(LogLevel)), ("format", get_args(LogFormat))):
            if getattr(self, name) not in accepted:
                raise ConfigError(
                    f"log.{name}", f"{getattr(self, name)!r} is not one of {', '.join(accepted)}"
                )
        if self.max_bytes < 1000:
            raise ConfigError("log.max_bytes", f"must be at least 1000, got {self.max_bytes}")
        if self.backups < 1:
            raise ConfigError("log.backups", f"must be at least 1, got {self.backups}")


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Every line logged within, also by tasks that are started within, carries these fields."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def set_up_logs(config: LogConfig, process: str, **always: str) -> None:
    """Send this process's `online_draft` logs where `config` says, with `process` and `always` in every line.

    Again: replaces what was set up before. ConfigError when the file can't be written.
    """
    root = logging.getLogger(ROOT)
    handler = _handler(config)
    handler.setFormatter(
        JsonFormatter(process, always) if config.format == "json" else TextFormatter(process)
    )
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    root.propagate = False


def set_up_logs_of(place: Mapping[str, Any], process: str) -> None:
    """`set_up_logs` as the `log` entry of an actor's place says; nothing without one."""
    if "log" in place:
        set_up_logs(LogConfig(**place["log"]), process, target=str(place.get("fingerprint", "")))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, what is bound, the record's `fields`."""

    def __init__(self, process: str, always: Mapping[str, str]) -> None:
        super().__init__()
        self._always = {"process": process, "pid": os.getpid(), **always}

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
            **self._always,
            **(_context.get() or {}),
            **(getattr(record, "fields", None) or {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = describe_error(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """The same for eyes."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, and what was raised below it."""
        fields = {**(_context.get() or {}), **(getattr(record, "fields", None) or {})}
        shown = "".join(f" {name}={value}" for name, value in fields.items() if value is not None)
        head = f"{_timestamp(record.created)} {record.levelname.lower():<7} {self._process}: "
        line = head + message_of(record).replace("\n", " ") + shown
        if record.exc_info and record.exc_info[1] is not None:
            error: dict[str, Any] | None = describe_error(record.exc_info[1])
            while error is not None:
                line += f"\n  {error['type']} {error.get('message', '')}".rstrip()
                line += "".join(f"\n    {frame}" for frame in error["frames"])
                error = error.get("cause")
        return line


def message_of(record: logging.LogRecord) -> str:
    """The message, with arguments that are exceptions described without what they may quote."""
    arguments = record.args
    if isinstance(arguments, tuple):
        arguments = tuple(_harmless(value) for value in arguments)
    elif arguments:
        arguments = {name: _harmless(value) for name, value in arguments.items()}
    with suppress(TypeError, ValueError):
        return str(record.msg) % arguments if arguments else str(_harmless(record.msg))
    return str(record.msg)


def describe_error(error: BaseException) -> dict[str, Any]:
    """Type and places of an exception and of what caused it; the message if it quotes no request."""
    frames = [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    ]
    # Ray carries a remote traceback as text; of it, only the places.
    remote = str(getattr(error, "traceback_str", ""))
    frames += [row.strip() for row in remote.splitlines() if row.lstrip().startswith('File "')]
    shown: dict[str, Any] = {"type": type(error).__name__, "frames": frames}
    if isinstance(error, SAFE):
        shown["message"] = str(error)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and cause is not error:
        shown["cause"] = describe_error(cause)
    return shown


class SharedFileHandler(RotatingFileHandler):
    """A RotatingFileHandler for a file that several processes write: one at a time, by a lock beside it, and
    whoever finds the file renamed by another opens the new one."""

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock_file = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        super().__init__(path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, whole; to stderr while the file can't be written. Nobody who logs fails for it."""
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            try:
                self._follow()
                super().emit(record)
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)
        except OSError:
            with suppress(OSError, ValueError):
                sys.stderr.write(f"{self.format(record)}\n")

    def close(self) -> None:
        """Close file and lock. Idempotent."""
        super().close()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def _open(self) -> Any:
        """Readable by this user only."""
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "a", encoding=self.encoding)

    def _follow(self) -> None:
        try:
            there = os.stat(self.baseFilename)
            ours = os.fstat(self.stream.fileno()) if self.stream is not None else None
        except OSError:
            ours, there = None, None
        if ours is None or there is None or (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev):
            if self.stream is not None:
                self.stream.close()
                self.stream = None
            self.stream = self._open()


def _handler(config: LogConfig) -> logging.Handler:
    if config.file is None:
        return logging.StreamHandler()
    try:
        return SharedFileHandler(Path(config.file), config.max_bytes, config.backups)
    except OSError as error:
        raise ConfigError("log.file", f"{config.file} can't be written: {error.strerror}") from error


def _harmless(value: Any) -> Any:
    if isinstance(value, BaseException) and not isinstance(value, SAFE):
        return type(value).__name__
    return value


def _timestamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
