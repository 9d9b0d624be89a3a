"""Which weights the target has: a journal of its updates, kept under the fingerprint that it began with.

`registry/<origin>/targets/NNNNNNNN.json` as in `journal`, all of kind `retarget`; `version` is the new
fingerprint. `registry/<fingerprint>/target/` is a copy of a target that was put in another's place:
`target.json` is written last, and without it there is no copy.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from online_draft.errors import ArtifactError, ConfigError, StoreError
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.store import ArtifactStore

FOLDER = "targets"
COPY_FILE = "target.json"
DRAIN_S = 60.0
"""How long sequences that have begun to answer may go on with the old weights, unless an update says."""


class TargetLine:
    """The updates of one target. Thread-safe; every call looks at the store and blocks (StoreError;
    JournalError for entries that can't be understood)."""

    def __init__(self, store: ArtifactStore, origin: str) -> None:
        self.store = store
        self.origin = origin
        self._journal = DecisionJournal(store, origin, FOLDER)

    def updates(self) -> list[Decision]:
        """All of them, in order."""
        return self._journal.read()

    def current(self) -> str:
        """The fingerprint of the target as it was decided last."""
        updates = self.updates()
        return str(updates[-1].version) if updates else self.origin

    def decide(
        self,
        expected_seq: int,
        fingerprint: str,
        actor: str,
        reason: str,
        numbers: Mapping[str, Any],
        notify: Callable[[Decision], None] = lambda decision: None,
    ) -> Decision:
        """Put a published target in the place of the current one. LostRaceError when there was an update
        since the caller looked; ArtifactError when no copy of it was published."""
        if fingerprint == self.current():
            raise ConfigError("path", f"holds the weights that are served already, {fingerprint}")
        if fingerprint != self.origin and not has_copy(self.store, fingerprint):
            raise ArtifactError(f"target {fingerprint} is not in {self.store.root}")
        now_ms = time.time_ns() // 1_000_000
        decision = Decision(expected_seq + 1, "retarget", fingerprint, actor, reason, numbers, now_ms)
        written = self._journal.append(expected_seq, decision)
        with contextlib.suppress(StoreError):  # a hint only: everybody polls
            notify(written)
        return written


def publish_copy(store: ArtifactStore, fingerprint: str, files: Sequence[Path], source: str) -> None:
    """Keep a target's files. Idempotent; an unfinished copy is completed."""
    if has_copy(store, fingerprint):
        return
    root = copy_path(fingerprint)
    for file in files:
        store.add_file(file, f"{root}/{file.name}")
    sizes = {file.name: file.stat().st_size for file in files}
    store.write_bytes(
        f"{root}/{COPY_FILE}", json.dumps({"source": source, "files": sizes}, indent=2).encode()
    )


def has_copy(store: ArtifactStore, fingerprint: str) -> bool:
    """Whether a copy of this target is complete."""
    return store.exists(f"{copy_path(fingerprint)}/{COPY_FILE}")


def fetch_copy(store: ArtifactStore, fingerprint: str, cache: Path) -> Path:
    """A directory of this machine with a published target. ArtifactError when there is no such copy, or a
    file of it isn't as long as it was; whoever reads it compares fingerprints."""
    if not has_copy(store, fingerprint):
        raise ArtifactError(f"target {fingerprint} is not in {store.root}")
    directory = store.local_directory(copy_path(fingerprint), cache / f"{fingerprint}-target")
    for name, size in json.loads((directory / COPY_FILE).read_bytes())["files"].items():
        file = directory / name
        if not file.is_file() or file.stat().st_size != size:
            raise ArtifactError(f"{file} is missing or not {size} bytes long")
    return directory


def prune_copies(line: TargetLine, keep: int = 2) -> None:
    """Delete the copies of targets that were replaced, but for those of the last `keep` updates."""
    names = [str(update.version) for update in line.updates()]
    for name in {*names[:-keep]} - {*names[-keep:]}:
        line.store.delete(copy_path(name))


def origins(store: ArtifactStore) -> list[str]:
    """The targets of a store that others may have taken the place of, but that took nobody's: one a line."""
    targets = store.list("registry")
    lines = [name for name in targets if store.exists(f"registry/{name}/{FOLDER}")]
    later = {str(update.version) for name in lines for update in TargetLine(store, name).updates()}
    return [name for name in targets if name in lines or name not in later]


def copy_path(fingerprint: str) -> str:
    """Where in the store a target's copy is."""
    return f"registry/{fingerprint}/target"
