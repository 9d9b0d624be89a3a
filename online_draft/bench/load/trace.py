"""Traces of real traffic: when requests came and how long they were. CSV with a header, or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from online_draft.errors import ConfigError

_COLUMNS = {
    "at": ("TIMESTAMP", "timestamp"),
    "prompt": ("ContextTokens", "prompt_tokens"),
    "output": ("GeneratedTokens", "output_tokens"),
}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request `at_s` seconds after the trace's first, with its lengths in tokens."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


def read_trace(path: Path, limit: int | None = None) -> list[Arrival]:
    """The first `limit` rows in order of arrival. Raises ConfigError naming file and line.

    Columns are TIMESTAMP, ContextTokens, GeneratedTokens (Azure's) or timestamp, prompt_tokens,
    output_tokens; a timestamp is a date with time, or seconds. Requests that generate nothing are left out.
    """
    arrivals: list[Arrival] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in _rows(file, path):
                arrival = _arrival(row, f"{path}:{number}")
                if arrival.output_tokens > 0:
                    arrivals.append(arrival)
                if limit is not None and len(arrivals) >= limit:
                    break
    except OSError as error:
        raise ConfigError("trace", f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError("trace", f"{path} is no text file ({error.reason})") from error
    if not arrivals:
        raise ConfigError("trace", f"{path} holds no request")
    arrivals.sort(key=lambda arrival: arrival.at_s)
    begin = arrivals[0].at_s
    return [Arrival(a.at_s - begin, a.prompt_tokens, a.output_tokens) for a in arrivals]


def _rows(file: TextIO, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line number and fields of every row."""
    first = file.readline()
    file.seek(0)
    if not first.lstrip().startswith("{"):
        reader = csv.DictReader(file)
        yield from ((reader.line_num, row) for row in reader)
        return
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError("trace", f"{path}:{number}: {error}") from None
            if not isinstance(row, dict):
                raise ConfigError("trace", f"{path}:{number}: expected a JSON object")
            yield number, row


def _arrival(row: Mapping[str, Any], where: str) -> Arrival:
    values = {}
    for field, names in _COLUMNS.items():
        found = [row[name] for name in names if row.get(name) is not None]
        if not found:
            raise ConfigError("trace", f"{where}: no column {' or '.join(names)}")
        values[field] = found[0]
    return Arrival(
        _seconds(values["at"], where),
        _count(values["prompt"], 1, "prompt tokens", where),
        _count(values["output"], 0, "output tokens", where),
    )


def _seconds(value: Any, where: str) -> float:
    for parse in (float, lambda text: datetime.fromisoformat(str(text).strip()).timestamp()):
        try:
            seconds = parse(value)
        except (TypeError, ValueError):
            continue
        if seconds - seconds == 0:  # neither infinite nor NaN
            return float(seconds)
    raise ConfigError("trace", f"{where}: {value!r} is neither a date with time nor seconds")


def _count(value: Any, least: int, what: str, where: str) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        raise ConfigError("trace", f"{where}: {value!r} is no number of {what}") from None
    if count < least:
        raise ConfigError("trace", f"{where}: {what} must be at least {least}, got {count}")
    return count
