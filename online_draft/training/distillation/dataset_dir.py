"""Rows of a directory that `datasets` saved (`save_to_disk`), read with pyarrow alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from online_draft.errors import ConfigError

_STATE = "state.json"
_SPLITS = "dataset_dict.json"


def is_dataset_directory(path: Path) -> bool:
    """Whether `datasets` saved a data set, or several splits of one, here."""
    return (path / _STATE).is_file() or (path / _SPLITS).is_file()


def dataset_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of all rows in the saved order; of several splits, all, one after the other.

    One batch of rows is in memory at a time. ConfigError naming `prompts` when pyarrow is missing or a file
    can't be read.
    """
    if (path / _SPLITS).is_file():
        for split in _json(path / _SPLITS)["splits"]:
            yield from dataset_rows(path / str(split))
        return
    try:
        import pyarrow
    except ImportError:
        raise ConfigError(
            "prompts",
            f"{path} is a saved data set, which needs pyarrow: pip install 'online-draft[datasets]'",
        ) from None
    for entry in _json(path / _STATE)["_data_files"]:
        file = path / str(entry["filename"])
        number = 0
        try:
            with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as batches:
                for batch in batches:
                    for row in batch.to_pylist():
                        number += 1
                        yield f"{file}, row {number}", row
        except (OSError, pyarrow.ArrowException) as error:
            raise ConfigError("prompts", f"can't read {file}: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("prompts", f"can't read {path}: {error}") from error
    return content
