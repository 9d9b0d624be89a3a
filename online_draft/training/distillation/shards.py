"""Answered prompts on disk: shards of token ids, each complete or not there, read record by record."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from online_draft.errors import ArtifactError, ConfigError
from online_draft.training.features import TokenRecord

OPTIONS_FILE = "answers.json"


class AnswerShards:
    """Records by the number of their prompt, in `shard-*.safetensors` files of one directory.

    In memory is where each record lies, and its lengths. A shard is never changed; a damaged one is deleted
    when the directory is opened, and its records are missing. One writer at a time.
    """

    def __init__(self, directory: Path, options: Mapping[str, Any]) -> None:
        """`options` say how answers are made. ConfigError naming those that differ from the directory's."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._check(dict(options))
        self._paths: list[Path] = []
        self._where: dict[int, tuple[int, int]] = {}
        """(shard, place in it) of each prompt's record."""
        self._columns: dict[str, list[array[Any]]] = {name: [] for name in _COLUMNS}
        self._starts: list[NDArray[np.int64]] = []
        for path in sorted(directory.glob("shard-*.safetensors")):
            try:
                self._index(path)
            except (SafetensorError, KeyError, ValueError, OSError):
                path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, prompt: int) -> bool:
        return prompt in self._where

    def numbers(self) -> list[int]:
        """Numbers of the answered prompts, ascending."""
        return sorted(self._where)

    def lengths(self, prompt: int) -> tuple[int, int]:
        """Tokens of a prompt and of its answer."""
        shard, place = self._where[prompt]
        columns = self._columns
        return int(columns["prompt_lengths"][shard][place]), int(columns["output_lengths"][shard][place])

    def read(self, prompt: int) -> TokenRecord:
        """One record, from disk. ArtifactError when its shard has vanished."""
        shard, place = self._where[prompt]
        prompt_length, output_length = self.lengths(prompt)
        start = int(self._starts[shard][place])
        try:
            with safe_open(self._paths[shard], framework="pt") as file:
                end = start + prompt_length + output_length
                tokens = file.get_slice("tokens")[start:end].tolist()
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{self._paths[shard]} can't be read any more: {error}") from error
        return TokenRecord(
            tuple(tokens[:prompt_length]),
            tuple(tokens[prompt_length:]),
            float(self._columns["temperatures"][shard][place]),
            seed=int(self._columns["seeds"][shard][place]),
        )

    def outputs(self) -> Iterator[NDArray[np.int64]]:
        """The output tokens of each shard, one shard in memory at a time."""
        for shard, path in enumerate(self._paths):
            tokens = load_file(path)["tokens"].numpy()
            mask = np.zeros(len(tokens), dtype=bool)
            columns = (self._starts[shard], self._columns["prompt_lengths"], self._columns["output_lengths"])
            for start, prompt, output in zip(columns[0], columns[1][shard], columns[2][shard], strict=True):
                mask[start + prompt : start + prompt + output] = True
            yield tokens[mask].astype(np.int64)

    def write(self, records: Mapping[int, TokenRecord]) -> None:
        """Keep records in a new shard, named after the first; durable on return."""
        tokens = [token for record in records.values() for token in (*record.prompt_ids, *record.output_ids)]
        tensors = {
            "index": torch.tensor(list(records)),
            "tokens": torch.tensor(tokens, dtype=torch.int32),
            "prompt_lengths": torch.tensor([len(record.prompt_ids) for record in records.values()]),
            "output_lengths": torch.tensor([len(record.output_ids) for record in records.values()]),
            "temperatures": torch.tensor(
                [record.temperature for record in records.values()], dtype=torch.float64
            ),
            "seeds": torch.tensor([record.seed for record in records.values()]),
        }
        path = self.directory / f"shard-{next(iter(records)):08d}.safetensors"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        save_file(tensors, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self._index(path)

    def _check(self, options: dict[str, Any]) -> None:
        path = self.directory / OPTIONS_FILE
        options = json.loads(json.dumps(options))
        if path.is_file():
            try:
                kept = json.loads(path.read_text())
            except ValueError as error:
                raise ConfigError("work", f"{path} can't be read: {error}") from error
            differing = [name for name in options if kept.get(name) != options[name]]
            if differing:
                was = ", ".join(f"{name} was {kept.get(name)}, is {options[name]}" for name in differing)
                raise ConfigError("work", f"{self.directory} holds answers made otherwise: {was}")
            return
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(options, indent=2) + "\n")
        os.replace(temporary, path)

    def _index(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            columns = {name: array(code, file.get_tensor(name).tolist()) for name, code in _COLUMNS.items()}
            total = int(file.get_slice("tokens").get_shape()[0])
        ends = np.cumsum(np.array(columns["prompt_lengths"]) + np.array(columns["output_lengths"]))
        if len({len(column) for column in columns.values()}) != 1 or ends[-1] != total:
            raise ValueError("columns don't fit together")
        shard = len(self._paths)
        self._paths.append(path)
        for name, column in columns.items():
            self._columns[name].append(column)
        self._starts.append(np.concatenate(([0], ends[:-1])))
        for place, number in enumerate(columns["index"]):
            self._where[number] = shard, place


_COLUMNS = {"index": "q", "prompt_lengths": "q", "output_lengths": "q", "temperatures": "d", "seeds": "q"}
