"""The learner's state on the artifact store: complete or not there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from online_draft.buffer.erasures import Erasure
from online_draft.buffer.reservoirs import erase_stored
from online_draft.errors import ArtifactError, StoreError
from online_draft.store import ArtifactStore

SCHEMA = 1
STATE_FILE = "state.json"
FILES = ("trainer.safetensors", "reservoirs.msgpack", "reader.msgpack")
KEEP = 2

_ROOT = "learner"
_NUMBER = re.compile(r"\d{8}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a learner needs to go on: `progress` is plain JSON, the rest as their owners wrote it."""

    progress: dict[str, Any]
    trainer: bytes
    reservoirs: bytes
    reader: bytes


class CheckpointStore:
    """Numbered directories `learner/<target>/<number>/`, published at once; two are kept. Blocks."""

    def __init__(self, store: ArtifactStore, fingerprint: str) -> None:
        self._store = store
        self._root = f"{_ROOT}/{fingerprint}"

    def save(self, checkpoint: Checkpoint) -> int:
        """Write a checkpoint, durable on return; gives its number. StoreError without a store."""
        contents = dict(
            zip(FILES, (checkpoint.trainer, checkpoint.reservoirs, checkpoint.reader), strict=True)
        )
        files = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in contents.items()
        }
        state = {"schema": SCHEMA, "files": files, "progress": checkpoint.progress}
        contents[STATE_FILE] = json.dumps(state, indent=2).encode()
        number = max(self._numbers(), default=0) + 1
        while not self._store.put_dir(contents, self._path(number), last=STATE_FILE):
            number += 1
        for old in self._numbers()[:-KEEP]:
            self._store.delete(self._path(old))
        return number

    def load(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest intact checkpoint, and why newer ones can't be used. StoreError without a store."""
        problems: list[str] = []
        for number in reversed(self._numbers()):
            try:
                return self._load(number), problems
            except (ArtifactError, StoreError, ValueError, KeyError, TypeError) as error:
                problems.append(f"checkpoint {number}: {error}")
        return None, problems

    def erase(self, requests: Sequence[Erasure]) -> None:
        """Honour requests to erase in what is stored: the newest intact checkpoint is written anew without
        those tenants, older ones are deleted. Idempotent. StoreError without a store."""
        checkpoint, _ = self.load()
        number = max((request.number for request in requests), default=0)
        honoured = 0 if checkpoint is None else int(checkpoint.progress.get("erased", 0))
        if checkpoint is not None and honoured < number:
            tenants = {request.tenant for request in requests if request.number > honoured}
            progress = {**checkpoint.progress, "erased": number}
            reservoirs = erase_stored(checkpoint.reservoirs, tenants)
            self.save(replace(checkpoint, progress=progress, reservoirs=reservoirs))
        self.forget_before(number)

    def forget_before(self, erased: int) -> None:
        """Delete checkpoints in which requests to erase up to `erased` are not honoured, and what writers
        that were interrupted left. Idempotent. StoreError without a store."""
        for number in self._numbers():
            try:
                honoured = int(self._load(number).progress.get("erased", 0))
            except (ArtifactError, StoreError, ValueError, KeyError, TypeError):
                honoured = -1
            if honoured < erased:
                self._store.delete(self._path(number))
        self._store.clean(self._root)

    def _load(self, number: int) -> Checkpoint:
        state = json.loads(self._store.read_bytes(f"{self._path(number)}/{STATE_FILE}"))
        if state["schema"] != SCHEMA:
            raise ArtifactError(f"schema {state['schema']}, this code reads {SCHEMA}")
        trainer, reservoirs, reader = (
            self._store.get_file(
                f"{self._path(number)}/{name}", state["files"][name]["sha256"], state["files"][name]["bytes"]
            )
            for name in FILES
        )
        return Checkpoint(dict(state["progress"]), trainer, reservoirs, reader)

    def _numbers(self) -> list[int]:
        return sorted(int(name) for name in self._store.list(self._root) if _NUMBER.fullmatch(name))

    def _path(self, number: int) -> str:
        return f"{self._root}/{number:08d}"


def erase_elsewhere(store: ArtifactStore, fingerprint: str | None, requests: Sequence[Erasure]) -> None:
    """Honour requests in the checkpoints of all targets but this one, whose learner does so itself.
    StoreError without a store."""
    for other in store.list(_ROOT):
        if other != fingerprint:
            CheckpointStore(store, other).erase(requests)
