"""What is known about one published drafter version."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from online_draft.core import SCHEMA_VERSION
from online_draft.errors import ArtifactError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

M = TypeVar("M")


def tenant_mark(tenant: str) -> str:
    """What stands for a tenant in provenance: enough to recognise a name, not to read it."""
    return hashlib.blake2b(tenant.encode(), digest_size=8, person=b"od-tenant").hexdigest()


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a version comes from: its parent version, how many records trained it, counts of that
    training (slices, tokens, …), the git revision of the code, the time it was made, and the `tenant_mark`s
    of those whose records trained it or the versions before it. `carried_over_from` (`<target>/<version>`)
    has the same weights; for this target they are unproven."""

    parent: str | None = None
    records: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    git_revision: str | None = None
    created_at_ms: int = 0
    tenants: tuple[str, ...] = ()
    carried_over_from: str | None = None


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Checksum and length of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class VersionManifest:
    """A version's id, target, drafter kind, files and provenance; stored beside them as `version.json`."""

    version: str
    target: str
    kind: str
    files: Mapping[str, FileEntry]
    provenance: Provenance
    schema: int = SCHEMA_VERSION

    @property
    def name(self) -> str:
        """What its directory is called."""
        return self.version

    @property
    def total_bytes(self) -> int:
        """Length of all files together."""
        return sum(entry.bytes for entry in self.files.values())

    def to_json(self) -> bytes:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> VersionManifest:
        """Strict inverse of `to_json`; `where` names the file in errors. Raises ArtifactError."""
        return parse_manifest(
            data,
            where,
            "a version manifest",
            lambda raw, files, origin, schema: cls(
                str(raw["version"]), str(raw["target"]), str(raw["kind"]), files, origin, schema
            ),
        )


def parse_manifest(
    data: bytes,
    where: str,
    what: str,
    build: Callable[[dict[str, Any], dict[str, FileEntry], Provenance, int], M],
) -> M:
    """`build` a manifest from its fields, with those that all manifests have read already.

    ArtifactError when this isn't `what`; `where` names the file.
    """
    try:
        raw: dict[str, Any] = json.loads(data)
        schema = int(raw.get("schema", SCHEMA_VERSION - 1))
        if schema not in (SCHEMA_VERSION - 1, SCHEMA_VERSION):
            raise ArtifactError(
                f"{where} has schema {schema}; this code reads {SCHEMA_VERSION - 1} and {SCHEMA_VERSION}"
            )
        files = {str(name): FileEntry(str(e["sha256"]), int(e["bytes"])) for name, e in raw["files"].items()}
        origin = raw.get("provenance", {})
        provenance = Provenance(
            parent=origin.get("parent"),
            records=int(origin.get("records", 0)),
            counts={str(name): int(count) for name, count in origin.get("counts", {}).items()},
            git_revision=origin.get("git_revision"),
            created_at_ms=int(origin.get("created_at_ms", 0)),
            tenants=tuple(str(mark) for mark in origin.get("tenants", ())),
            carried_over_from=origin.get("carried_over_from"),
        )
        manifest = build(raw, files, provenance, schema)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{where} is not {what}: {error!r}") from error
    for name in files:
        if not FILE_NAME.fullmatch(name):
            raise ArtifactError(f"{where} names a file {name!r}, which is not a plain file name")
    return manifest
