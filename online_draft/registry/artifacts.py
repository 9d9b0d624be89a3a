"""Published drafter versions of one target.

`registry/<target>/drafters/<version>/` holds the drafter's own files (`manifest.json`,
`model.safetensors`, opaque here) and `version.json`, written last, without which nothing is published.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from online_draft.errors import ArtifactError, ConfigError
from online_draft.registry.manifest import NAME, FileEntry, Provenance, VersionManifest
from online_draft.registry.shelf import Label, Shelf, check_digest
from online_draft.store import ArtifactStore

VERSION_FILE = "version.json"
DRAFTER_MANIFEST = "manifest.json"
WEIGHTS_FILE = "model.safetensors"

_LABEL = Label("drafter version", "drafters", "v", VERSION_FILE, VersionManifest.from_json)


class DrafterRegistry:
    """Versions of the drafters of one target. Stateless; every call looks at the store and blocks."""

    def __init__(self, store: ArtifactStore, target_fingerprint: str) -> None:
        self.store = store
        self.target = target_fingerprint
        self._shelf = Shelf(store, target_fingerprint, _LABEL)

    def publish(self, local_dir: Path, provenance: Provenance, name: str | None = None) -> str:
        """Publish a drafter directory; returns its version id.

        The id is `v<sequence>-<8 hex of the weights' sha256>`, or `name` for an imported drafter
        (`baseline`, `narrow`); importing the same weights again under the same name changes nothing.
        ArtifactError when the files are incomplete, corrupt, for another target, or the name is taken.
        """
        files, kind, digest = self._checked_local(local_dir)
        if name is not None and (not NAME.fullmatch(name) or self._shelf.is_sequenced(name)):
            raise ConfigError("name", f"{name!r} is not {NAME.pattern} or looks like a sequenced version")
        origin = dated(provenance)

        def describe(version: str, entries: Mapping[str, FileEntry]) -> VersionManifest:
            return VersionManifest(version, self.target, kind, entries, origin)

        return self._shelf.publish(files, digest, describe, name)

    def manifest(self, version: str) -> VersionManifest:
        """What is known about a version. ArtifactError when it is missing or made for another target."""
        return self._shelf.manifest(version)

    def fetch(self, version: str, local_dir: Path) -> VersionManifest:
        """Copy a version to `local_dir`, every file checked; the directory appears at once or not at all.

        A `local_dir` that holds this version intact is kept, a damaged one replaced. ArtifactError
        gives the reason: missing, truncated, corrupt, other target. StoreError: store unreachable.
        """
        return self._shelf.fetch(version, local_dir)

    def verify(self, version: str) -> VersionManifest:
        """Read and check every file of a version without keeping it. Errors as `fetch`."""
        return self._shelf.verify(version)

    def list_versions(self) -> list[str]:
        """Published versions: imported names first, then by sequence."""
        return self._shelf.names()

    def find_weights(self, sha256: str) -> list[str]:
        """Versions whose weights have this checksum, oldest first."""
        found = []
        for version in self.list_versions():
            try:
                entry = self.manifest(version).files.get(WEIGHTS_FILE)
            except ArtifactError:
                continue
            if entry is not None and entry.sha256 == sha256:
                found.append(version)
        return found

    def prune(self, keep: Collection[str], last: int = 10) -> list[str]:
        """Delete sequenced versions except `keep` and the newest `last` (at least one, so that sequence
        numbers never repeat). Imported names are never deleted. Returns what was deleted."""
        return self._shelf.prune(keep, last)

    def _checked_local(self, local_dir: Path) -> tuple[dict[str, bytes], str, str]:
        """Files, drafter kind and weights digest of a drafter directory that is fit to publish."""
        files = self._shelf.local_files(local_dir, (DRAFTER_MANIFEST, WEIGHTS_FILE))
        where = local_dir / DRAFTER_MANIFEST
        try:
            drafter = json.loads(files[DRAFTER_MANIFEST])
            target, kind, digest = str(drafter["target"]), str(drafter["kind"]), str(drafter["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{where} is not a drafter manifest: {error!r}") from error
        self._shelf.check_target(target, where)
        check_digest(files[WEIGHTS_FILE], digest, local_dir / WEIGHTS_FILE)
        return files, kind, digest


def dated(provenance: Provenance) -> Provenance:
    """With the time of now if it has none."""
    if provenance.created_at_ms:
        return provenance
    return replace(provenance, created_at_ms=time.time_ns() // 1_000_000)
