"""Reading the small JSON files beside weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from online_draft.errors import ArtifactError


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. ArtifactError when it is missing, can't be read or is something else."""
    try:
        entry = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path.name} is missing in {path.parent}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} can't be read: {error}") from error
    if not isinstance(entry, dict):
        raise ArtifactError(f"{path} is not a JSON object")
    return entry
