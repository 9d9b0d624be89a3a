"""The page's files, as they go over the wire."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "md": "text/plain; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file, plain and packed; `etag` changes with what is in it."""

    data: bytes
    packed: bytes
    media_type: str
    etag: str


def read_files() -> dict[str, StaticFile]:
    """All files of the page by their paths below `static`; what isn't among them is never served."""
    return dict(_below(files("online_draft.serve.dashboard") / "static", ""))


def _below(folder: Traversable, prefix: str) -> list[tuple[str, StaticFile]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        path = prefix + entry.name
        if entry.is_dir():
            found += _below(entry, f"{path}/")
        elif (kind := _TYPES.get(entry.name.rpartition(".")[2])) is not None:
            data = entry.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            found.append((path, StaticFile(data, gzip.compress(data, 9, mtime=0), kind, etag)))
    return found
