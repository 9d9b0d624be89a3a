"""From a drafter directory to a version of the artifact store: registered, not yet serving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from online_draft.errors import ArtifactError
from online_draft.launch.admin import open_desk
from online_draft.launch.run_file import find_run_files
from online_draft.registry.manifest import Provenance
from online_draft.registry.target_line import TargetLine
from online_draft.settings import Settings
from online_draft.store import ArtifactStore


@dataclass(frozen=True, slots=True)
class Pushed:
    """A version of `target`; `fresh` is False when it was there before. `running`: a system of this target
    runs from the state directory."""

    version: str
    target: str
    fresh: bool
    running: bool


def push_drafter(settings: Settings, directory: Path, name: str | None = None) -> Pushed:
    """Publish a drafter directory, without a decision about it: it serves when somebody promotes it.

    The same weights are one version, however often they are pushed, unless a `name` asks for another.
    ArtifactError when files are missing, corrupt or not finite, or made for another target than the one that
    runs, or than those that the store knows.
    """
    from online_draft.models.artifact import load_drafter, read_manifest

    manifest = read_manifest(directory)
    target = str(manifest["target"])
    running = check_target(settings, directory, target)
    load_drafter(directory)
    registry = open_desk(settings, target).registry
    before = registry.list_versions()
    version = name or next(iter(registry.find_weights(str(manifest["sha256"]))), None)
    if name is not None or version is None:
        version = registry.publish(directory, as_provenance(manifest["provenance"]), name)
    return Pushed(version, target, version not in before, running)


def check_target(settings: Settings, directory: Path, target: str) -> bool:
    """Whether a system of this target runs; ArtifactError when what is in `directory` is for another."""
    here = settings.state_dir.resolve()
    for run in find_run_files(settings.state_dir):
        if run.alive and Path(run.state_dir).resolve() == here:
            started = run.models.get(settings.served_name, run.fingerprint)
            serving = TargetLine(ArtifactStore(settings.artifacts), started).current()
            if serving != target:
                name = settings.served_name if settings.realm else run.target
                raise ArtifactError(
                    f"{directory} is for target {target}, but {name} runs, which is {serving}"
                )
            return True
    known = ArtifactStore(settings.artifacts).list("registry")
    if known and target not in known:
        raise ArtifactError(
            f"{directory} is for target {target}; {settings.artifacts} knows {', '.join(known)}. "
            "Serve that target from this state directory first, or name another --state-dir"
        )
    return False


def as_provenance(origin: dict[str, Any]) -> Provenance:
    """What `distill` or `adapter train` knew, as far as a manifest keeps it."""
    records = origin.get("records") or {}
    counts = {name: origin[name] for name in ("steps", "tokens") if isinstance(origin.get(name), int)}
    revision = origin.get("git_revision")
    return Provenance(
        records=int(records.get("train", 0)) if isinstance(records, dict) else 0,
        counts=counts,
        git_revision=revision if isinstance(revision, str) else None,
    )
