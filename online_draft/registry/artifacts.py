"""Published drafter versions of one target: immutable directories, checked on the way in and out.

`registry/<target>/drafters/<version>/` holds the drafter's own files (`manifest.json`,
`model.safetensors`, opaque here) and `version.json`, written last, without which nothing is published.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from online_draft.errors import ArtifactError, ConfigError, StoreError
from online_draft.registry.manifest import FILE_NAME, NAME, SEQUENCED, FileEntry, Provenance, VersionManifest
from online_draft.store import ArtifactStore

VERSION_FILE = "version.json"
DRAFTER_MANIFEST = "manifest.json"
WEIGHTS_FILE = "model.safetensors"


class DrafterRegistry:
    """Versions of the drafters of one target. Stateless; every call looks at the store and blocks."""

    def __init__(self, store: ArtifactStore, target_fingerprint: str) -> None:
        self.store = store
        self.target = target_fingerprint
        self._root = f"registry/{target_fingerprint}/drafters"

    def publish(self, local_dir: Path, provenance: Provenance, name: str | None = None) -> str:
        """Publish a drafter directory; returns its version id.

        The id is `v<sequence>-<8 hex of the weights' sha256>`, or `name` for an imported drafter
        (`baseline`, `narrow`); importing the same weights again under the same name changes nothing.
        ArtifactError when the files are incomplete, corrupt, for another target, or the name is taken.
        """
        files, kind, digest = self._checked_local(local_dir)
        if name is not None and (not NAME.fullmatch(name) or SEQUENCED.fullmatch(name)):
            raise ConfigError("name", f"{name!r} is not {NAME.pattern} or looks like a sequenced version")
        if not provenance.created_at_ms:
            provenance = replace(provenance, created_at_ms=time.time_ns() // 1_000_000)
        entries = {f: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for f, data in files.items()}
        while True:
            version = name or f"v{self._next_sequence():04d}-{digest[:8]}"
            manifest = VersionManifest(version, self.target, kind, entries, provenance)
            contents = {**files, VERSION_FILE: manifest.to_json()}
            if self.store.put_dir(contents, f"{self._root}/{version}", last=VERSION_FILE):
                return version
            if name is not None:
                if self.manifest(name).files != entries:
                    raise ArtifactError(f"version {name} exists with other contents; choose another name")
                return name

    def manifest(self, version: str) -> VersionManifest:
        """What is known about a version. ArtifactError when it is missing or made for another target."""
        where = f"{self._version_path(version)}/{VERSION_FILE}"
        if not self.store.exists(where):
            raise ArtifactError(
                f"drafter version {version} is not in {self.store.root} for target {self.target}"
            )
        manifest = VersionManifest.from_json(self.store.read_bytes(where), where)
        if manifest.target != self.target:
            raise ArtifactError(f"{where} is for target {manifest.target}, not {self.target}")
        if manifest.version != version:
            raise ArtifactError(f"{where} describes version {manifest.version}")
        return manifest

    def fetch(self, version: str, local_dir: Path) -> VersionManifest:
        """Copy a version to `local_dir`, every file checked; the directory appears at once or not at all.

        A `local_dir` that holds this version intact is kept, a damaged one replaced. ArtifactError
        gives the reason: missing, truncated, corrupt, other target. StoreError: store unreachable.
        """
        manifest = self.manifest(version)
        if _holds(local_dir, manifest):
            return manifest
        temporary = local_dir.with_name(f".{local_dir.name}.{uuid.uuid4().hex}")
        try:
            temporary.mkdir(parents=True)
            for name, data in self._checked_files(manifest).items():
                (temporary / name).write_bytes(data)
            if local_dir.exists():
                shutil.rmtree(local_dir)
            os.rename(temporary, local_dir)
        except OSError as error:
            # Another process on this machine may have fetched the same version meanwhile.
            if not _holds(local_dir, manifest):
                raise StoreError(f"can't write {local_dir}: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return manifest

    def verify(self, version: str) -> VersionManifest:
        """Read and check every file of a version without keeping it. Errors as `fetch`."""
        manifest = self.manifest(version)
        self._checked_files(manifest)
        return manifest

    def list_versions(self) -> list[str]:
        """Published versions: imported names first, then by sequence."""
        names = self.store.list(self._root)
        published = [name for name in names if self.store.exists(f"{self._root}/{name}/{VERSION_FILE}")]
        return sorted(published, key=lambda name: (_sequence(name), name))

    def prune(self, keep: Collection[str], last: int = 10) -> list[str]:
        """Delete sequenced versions except `keep` and the newest `last` (at least one, so that sequence
        numbers never repeat). Imported names are never deleted. Returns what was deleted."""
        sequenced = [version for version in self.list_versions() if SEQUENCED.fullmatch(version)]
        doomed = [version for version in sequenced[: -max(last, 1)] if version not in keep]
        for version in doomed:
            self.store.delete(f"{self._root}/{version}")
        return doomed

    def _next_sequence(self) -> int:
        return max((_sequence(name) for name in self.store.list(self._root)), default=0) + 1

    def _version_path(self, version: str) -> str:
        if not NAME.fullmatch(version):
            raise ArtifactError(f"{version!r} is not a drafter version")
        return f"{self._root}/{version}"

    def _checked_files(self, manifest: VersionManifest) -> dict[str, bytes]:
        root = self._version_path(manifest.version)
        return {
            name: self.store.get_file(f"{root}/{name}", entry.sha256, entry.bytes)
            for name, entry in manifest.files.items()
        }

    def _checked_local(self, local_dir: Path) -> tuple[dict[str, bytes], str, str]:
        """Files, drafter kind and weights digest of a drafter directory that is fit to publish."""
        try:
            files = {
                path.name: path.read_bytes()
                for path in sorted(local_dir.iterdir())
                if path.is_file() and not path.name.startswith(".") and path.name != VERSION_FILE
            }
        except OSError as error:
            raise ArtifactError(f"can't read drafter directory {local_dir}: {error}") from error
        for name in (DRAFTER_MANIFEST, WEIGHTS_FILE):
            if name not in files:
                raise ArtifactError(f"{local_dir} has no {name}")
        for name in files:
            if not FILE_NAME.fullmatch(name):
                raise ArtifactError(f"{local_dir}/{name}: file names must be {FILE_NAME.pattern}")
        where = local_dir / DRAFTER_MANIFEST
        try:
            drafter = json.loads(files[DRAFTER_MANIFEST])
            target, kind, digest = str(drafter["target"]), str(drafter["kind"]), str(drafter["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{where} is not a drafter manifest: {error!r}") from error
        if target != self.target:
            raise ArtifactError(f"{where} is for target {target}, not {self.target}")
        actual = hashlib.sha256(files[WEIGHTS_FILE]).hexdigest()
        if actual != digest:
            raise ArtifactError(f"{local_dir / WEIGHTS_FILE} is corrupt: sha256 {actual}, expected {digest}")
        return files, kind, digest


def _sequence(version: str) -> int:
    match = SEQUENCED.fullmatch(version)
    return int(match.group(1)) if match else 0


def _holds(local_dir: Path, manifest: VersionManifest) -> bool:
    with contextlib.suppress(OSError):
        return all(
            hashlib.sha256((local_dir / name).read_bytes()).hexdigest() == entry.sha256
            for name, entry in manifest.files.items()
        )
    return False
