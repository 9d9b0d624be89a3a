"""Published directories of one kind and one target: immutable, checked on the way in and out.

A directory holds its owner's files (opaque here) and a manifest, written last, without which nothing is
published.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from online_draft.errors import ArtifactError, StoreError
from online_draft.registry.manifest import FILE_NAME, NAME, FileEntry
from online_draft.store import ArtifactStore


class Manifest(Protocol):
    """What a shelf needs to know of a directory."""

    @property
    def name(self) -> str: ...

    @property
    def target(self) -> str: ...

    @property
    def files(self) -> Mapping[str, FileEntry]: ...

    def to_json(self) -> bytes: ...


M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True, slots=True)
class Label(Generic[M]):
    """What stands on a shelf: its `noun` in errors, the `folder` of the store, the `letter` that sequenced
    names begin with, the manifest's file name and its parser."""

    noun: str
    folder: str
    letter: str
    manifest_file: str
    parse: Callable[[bytes, str], M]


class Shelf(Generic[M]):
    """Stateless; every call looks at the store and blocks. StoreError when it can't be reached."""

    def __init__(self, store: ArtifactStore, target: str, label: Label[M]) -> None:
        self.store = store
        self.target = target
        self._label = label
        self._sequenced = re.compile(label.letter + r"(\d{4,})-[0-9a-f]{8}")
        self._root = f"registry/{target}/{label.folder}"

    def publish(
        self,
        files: Mapping[str, bytes],
        digest: str,
        describe: Callable[[str, Mapping[str, FileEntry]], M],
        name: str | None = None,
    ) -> str:
        """Put `files` up as `<letter><sequence>-<8 hex of digest>`, or as `name`; what they are called now.

        The same files again under a given name change nothing; ArtifactError for others.
        """
        entries = {f: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for f, data in files.items()}
        while True:
            chosen = name or f"{self._label.letter}{self._next_sequence():04d}-{digest[:8]}"
            contents = {**files, self._label.manifest_file: describe(chosen, entries).to_json()}
            if self.store.put_dir(contents, f"{self._root}/{chosen}", last=self._label.manifest_file):
                return chosen
            if name is not None:
                if self.manifest(name).files != entries:
                    raise ArtifactError(
                        f"{self._label.noun} {name} exists with other contents; choose another name"
                    )
                return name

    def manifest(self, name: str) -> M:
        """What is known about a directory. ArtifactError when it is missing or made for another target."""
        where = f"{self._path(name)}/{self._label.manifest_file}"
        if not self.store.exists(where):
            raise ArtifactError(
                f"{self._label.noun} {name} is not in {self.store.root} for target {self.target}"
            )
        manifest = self._label.parse(self.store.read_bytes(where), where)
        if manifest.target != self.target:
            raise ArtifactError(f"{where} is for target {manifest.target}, not {self.target}")
        if manifest.name != name:
            raise ArtifactError(f"{where} describes {self._label.noun} {manifest.name}")
        return manifest

    def fetch(self, name: str, local_dir: Path) -> M:
        """Copy a directory to `local_dir`, every file checked; it appears at once or not at all.

        A `local_dir` that holds it intact is kept, a damaged one replaced. ArtifactError gives the reason:
        missing, truncated, corrupt, other target.
        """
        manifest = self.manifest(name)
        if _holds(local_dir, manifest):
            return manifest
        temporary = local_dir.with_name(f".{local_dir.name}.{uuid.uuid4().hex}")
        try:
            temporary.mkdir(parents=True)
            for file, data in self._checked_files(manifest).items():
                (temporary / file).write_bytes(data)
            if local_dir.exists():
                shutil.rmtree(local_dir)
            os.rename(temporary, local_dir)
        except OSError as error:
            # Another process on this machine may have fetched the same meanwhile.
            if not _holds(local_dir, manifest):
                raise StoreError(f"can't write {local_dir}: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return manifest

    def verify(self, name: str) -> M:
        """Read and check every file without keeping it. Errors as `fetch`."""
        manifest = self.manifest(name)
        self._checked_files(manifest)
        return manifest

    def names(self) -> list[str]:
        """What is published: given names first, then by sequence."""
        names = self.store.list(self._root)
        manifest = self._label.manifest_file
        published = [name for name in names if self.store.exists(f"{self._root}/{name}/{manifest}")]
        return sorted(published, key=lambda name: (self._sequence(name), name))

    def prune(self, keep: Collection[str], last: int) -> list[str]:
        """Delete sequenced names except `keep` and the newest `last` (at least one, so that numbers never
        repeat). Given names are never deleted. Returns what was deleted."""
        sequenced = [name for name in self.names() if self.is_sequenced(name)]
        doomed = [name for name in sequenced[: -max(last, 1)] if name not in keep]
        for name in doomed:
            self.store.delete(f"{self._root}/{name}")
        return doomed

    def is_sequenced(self, name: str) -> bool:
        """Whether a name was drawn rather than given."""
        return self._sequenced.fullmatch(name) is not None

    def local_files(self, directory: Path, required: Collection[str]) -> dict[str, bytes]:
        """The files of a directory that might be published. ArtifactError when one is missing or misnamed."""
        try:
            files = {
                path.name: path.read_bytes()
                for path in sorted(directory.iterdir())
                if path.is_file() and not path.name.startswith(".") and path.name != self._label.manifest_file
            }
        except OSError as error:
            raise ArtifactError(f"can't read {self._label.noun} directory {directory}: {error}") from error
        for name in required:
            if name not in files:
                raise ArtifactError(f"{directory} has no {name}")
        for name in files:
            if not FILE_NAME.fullmatch(name):
                raise ArtifactError(f"{directory}/{name}: file names must be {FILE_NAME.pattern}")
        return files

    def check_target(self, target: str, where: Path) -> None:
        """ArtifactError when a directory is for another target."""
        if target != self.target:
            raise ArtifactError(f"{where} is for target {target}, not {self.target}")

    def _next_sequence(self) -> int:
        return max((self._sequence(name) for name in self.store.list(self._root)), default=0) + 1

    def _sequence(self, name: str) -> int:
        match = self._sequenced.fullmatch(name)
        return int(match.group(1)) if match else 0

    def _path(self, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ArtifactError(f"{name!r} is not a name of a {self._label.noun}")
        return f"{self._root}/{name}"

    def _checked_files(self, manifest: M) -> dict[str, bytes]:
        root = self._path(manifest.name)
        return {
            file: self.store.get_file(f"{root}/{file}", entry.sha256, entry.bytes)
            for file, entry in manifest.files.items()
        }


def check_digest(weights: bytes, digest: str, where: Path) -> None:
    """ArtifactError when weights aren't those that were written down."""
    actual = hashlib.sha256(weights).hexdigest()
    if actual != digest:
        raise ArtifactError(f"{where} is corrupt: sha256 {actual}, expected {digest}")


def _holds(local_dir: Path, manifest: Manifest) -> bool:
    with contextlib.suppress(OSError):
        return all(
            hashlib.sha256((local_dir / name).read_bytes()).hexdigest() == entry.sha256
            for name, entry in manifest.files.items()
        )
    return False
