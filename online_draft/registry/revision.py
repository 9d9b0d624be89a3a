"""Which code this is: for the provenance of versions, and to tell an actor that runs old code."""

from __future__ import annotations

import functools
import hashlib
import subprocess
from pathlib import Path

import online_draft

_PACKAGE = Path(online_draft.__file__).parent


@functools.cache
def git_revision() -> str | None:
    """The commit of the checkout that this package runs from; None when installed or without git."""
    command = ["git", "-C", str(_PACKAGE), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    top, revision = run.stdout.split("\n")[:2]
    # A virtual environment may lie inside somebody else's repository.
    return revision if Path(top).resolve() == _PACKAGE.parent.resolve() else None


@functools.cache
def code_version() -> str:
    """Version of the package and 12 hex digits over its source files, as they were at the first call."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0")
        digest.update(path.read_bytes())
    return f"{online_draft.__version__}+{digest.hexdigest()[:12]}"
