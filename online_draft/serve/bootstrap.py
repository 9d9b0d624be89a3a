"""The first entry of a target's journal: the drafter that serving starts with."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from online_draft.errors import ConfigError
from online_draft.models.artifact import new_drafter, save_drafter
from online_draft.models.embedded import DRAFTERS_DIR, TARGET_DIR
from online_draft.models.loading import LoadedTarget
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import Choice, LadderState, decide_with_retry, fold
from online_draft.registry.manifest import Provenance

logger = logging.getLogger(__name__)

UNTRAINED = "untrained"
NGRAM_ALONE = "ngram"
"""No drafter: what is drafted comes from the n-gram memory."""
DEFAULT_SHIPPED = "baseline"


def ensure_first_version(
    loaded: LoadedTarget, registry: DrafterRegistry, journal: DecisionJournal, drafter: str | None
) -> None:
    """Publish and promote the first drafter unless the journal has a champion, or none is wanted. Safe to run
    in many replicas.

    `drafter` as in `ServiceConfig`. ConfigError when it names nothing, ArtifactError when it doesn't fit.
    """
    if drafter == NGRAM_ALONE or fold(journal.read()).champion is not None:
        return
    version = _publish(loaded, registry, drafter)

    def first(state: LadderState) -> Choice | None:
        if state.champion is not None:
            return None
        return Choice("promote", version, actor="bootstrap", reason="first version of this target")

    if decide_with_retry(journal, first, known=registry.list_versions()) is not None:
        logger.info("the journal of %s starts with %s", loaded.fingerprint, version)


def shipped_drafters(loaded: LoadedTarget) -> dict[str, Path]:
    """Drafters that come with the package and fit this target's directory, by name."""
    if loaded.path != TARGET_DIR or not DRAFTERS_DIR.is_dir():
        return {}
    return {path.name: path for path in sorted(DRAFTERS_DIR.iterdir()) if (path / "manifest.json").is_file()}


def _publish(loaded: LoadedTarget, registry: DrafterRegistry, drafter: str | None) -> str:
    shipped = shipped_drafters(loaded)
    if drafter is None:
        drafter = DEFAULT_SHIPPED if DEFAULT_SHIPPED in shipped else UNTRAINED
    if drafter in shipped:
        return registry.publish(shipped[drafter], Provenance(), name=drafter)
    if drafter == UNTRAINED:
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / UNTRAINED
            save_drafter(new_drafter("amphista", loaded.target), directory, loaded.fingerprint)
            return registry.publish(directory, Provenance(), name=UNTRAINED)
    if not Path(drafter).is_dir():
        known = ", ".join([*shipped, UNTRAINED, NGRAM_ALONE])
        raise ConfigError("drafter", f"{drafter!r} is neither one of {known} nor a directory")
    return registry.publish(Path(drafter), Provenance(), name="imported")
