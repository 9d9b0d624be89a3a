"""Published adapters of one target: `peft`'s files and a card, bound to a published base drafter.

`registry/<target>/adapters/<id>/` holds what `adapter train` writes (`adapter_config.json`,
`adapter_model.safetensors`, `card.json`, opaque here but for the card's binding) and `adapter.json`, written
last, without which nothing is published.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from online_draft.core import SCHEMA_VERSION
from online_draft.errors import ArtifactError
from online_draft.registry.artifacts import WEIGHTS_FILE as DRAFTER_WEIGHTS
from online_draft.registry.artifacts import DrafterRegistry, dated
from online_draft.registry.manifest import FileEntry, Provenance, parse_manifest
from online_draft.registry.shelf import Label, Shelf, check_digest
from online_draft.store import ArtifactStore

ADAPTER_FILE = "adapter.json"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
CARD_FILE = "card.json"


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """An adapter's id, its target, drafter kind and segment, version and weights checksum of the only base
    that it belongs to, files and provenance; stored beside them as `adapter.json`."""

    adapter: str
    target: str
    kind: str
    segment: str
    base: str
    base_digest: str
    files: Mapping[str, FileEntry]
    provenance: Provenance
    schema: int = SCHEMA_VERSION

    @property
    def name(self) -> str:
        """What its directory is called."""
        return self.adapter

    @property
    def total_bytes(self) -> int:
        """Length of all files together."""
        return sum(entry.bytes for entry in self.files.values())

    def to_json(self) -> bytes:
        """Indented JSON."""
        return json.dumps(asdict(self), indent=2, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> AdapterManifest:
        """Strict inverse of `to_json`; `where` names the file in errors. Raises ArtifactError."""

        def build(
            raw: dict[str, Any], files: dict[str, FileEntry], origin: Provenance, schema: int
        ) -> AdapterManifest:
            return cls(
                adapter=str(raw["adapter"]),
                target=str(raw["target"]),
                kind=str(raw["kind"]),
                segment=str(raw["segment"]),
                base=str(raw["base"]),
                base_digest=str(raw["base_digest"]),
                files=files,
                provenance=origin,
                schema=schema,
            )

        return parse_manifest(data, where, "an adapter manifest", build)


_LABEL = Label("adapter", "adapters", "a", ADAPTER_FILE, AdapterManifest.from_json)


class AdapterRegistry:
    """Adapters of one target's drafters. Stateless; every call looks at the store and blocks."""

    def __init__(self, store: ArtifactStore, target_fingerprint: str) -> None:
        self.store = store
        self.target = target_fingerprint
        self._drafters = DrafterRegistry(store, target_fingerprint)
        self._shelf = Shelf(store, target_fingerprint, _LABEL)

    def publish(self, local_dir: Path, base: str, provenance: Provenance) -> str:
        """Publish an adapter directory of the drafter version `base`; returns its id.

        The id is `a<sequence>-<8 hex of the weights' sha256>`; the same weights for the same base and segment
        are one adapter. ArtifactError when files are missing or corrupt, for another target or another base.
        """
        files = self._shelf.local_files(local_dir, (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE))
        card = _card(files[CARD_FILE], local_dir / CARD_FILE)
        self._shelf.check_target(card["target"], local_dir / CARD_FILE)
        check_digest(files[WEIGHTS_FILE], card["sha256"], local_dir / WEIGHTS_FILE)
        entry = self._drafters.manifest(base).files.get(DRAFTER_WEIGHTS)
        if entry is None or entry.sha256 != card["base_digest"]:
            raise ArtifactError(
                f"{local_dir} belongs to a base with weights {card['base_digest'][:16]}, which {base} isn't"
            )
        known = self._find(card["sha256"], base, card["segment"])
        if known is not None:
            return known
        origin = dated(provenance)

        def describe(adapter: str, entries: Mapping[str, FileEntry]) -> AdapterManifest:
            return AdapterManifest(
                adapter,
                self.target,
                card["kind"],
                card["segment"],
                base,
                card["base_digest"],
                entries,
                origin,
            )

        return self._shelf.publish(files, card["sha256"], describe)

    def manifest(self, adapter: str) -> AdapterManifest:
        """What is known about an adapter. ArtifactError when it is missing or made for another target."""
        return self._shelf.manifest(adapter)

    def fetch(self, adapter: str, local_dir: Path) -> AdapterManifest:
        """Copy an adapter to `local_dir`, every file checked; as `DrafterRegistry.fetch`."""
        return self._shelf.fetch(adapter, local_dir)

    def verify(self, adapter: str) -> AdapterManifest:
        """Read and check every file of an adapter without keeping it. Errors as `fetch`."""
        return self._shelf.verify(adapter)

    def list_adapters(self) -> list[str]:
        """Published adapters, oldest first."""
        return self._shelf.names()

    def prune(self, keep: Collection[str], last: int = 10) -> list[str]:
        """Delete adapters except `keep` and the newest `last` (at least one). Returns what was deleted."""
        return self._shelf.prune(keep, last)

    def _find(self, digest: str, base: str, segment: str) -> str | None:
        """The intact adapter with these weights, if there is one."""
        for adapter in self.list_adapters():
            try:
                manifest = self.manifest(adapter)
                entry = manifest.files.get(WEIGHTS_FILE)
                same = entry is not None and entry.sha256 == digest
                if same and (manifest.base, manifest.segment) == (base, segment):
                    self.verify(adapter)
                    return adapter
            except ArtifactError:
                continue
        return None


def _card(data: bytes, where: Path) -> dict[str, str]:
    """The fields that bind an adapter."""
    try:
        raw = json.loads(data)
        card = {name: raw[name] for name in ("target", "kind", "segment", "base_digest", "sha256")}
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{where} is not an adapter's card: {error!r}") from error
    for name, value in card.items():
        if not isinstance(value, str) or not value:
            raise ArtifactError(f"{where} is not an adapter's card: {name} is {value!r}")
    return card
