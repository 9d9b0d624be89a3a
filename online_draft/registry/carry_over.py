"""The first drafter of a target that was updated: the old one's champion, unproven."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from online_draft.registry.artifacts import DRAFTER_MANIFEST, DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal, DecisionKind
from online_draft.registry.ladder import Choice, LadderState, decide_with_retry, fold
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore

ACTOR = "retarget"


def carry_over(
    store: ArtifactStore,
    old: str,
    new: str,
    notify: Callable[[Decision], None] | None = None,
) -> str | None:
    """Publish the champion of target `old` for target `new` and promote it there; the version it is.

    A target that has a champion keeps it. None where there is nothing to carry over: then no head drafts.
    What was switched off by hand stays so. Idempotent. ArtifactError, StoreError, JournalError.
    """
    journal, registry = DecisionJournal(store, new), DrafterRegistry(store, new)
    former = fold(DecisionJournal(store, old).read())
    version = fold(journal.read()).champion
    if version is None and former.champion is not None:
        origin = f"{old}/{former.champion}"
        version = _published(registry, origin) or _publish(store, old, former.champion, registry)
        numbers = {"unproven": True, "carried_over_from": origin}
        first = Choice("promote", version, ACTOR, f"carried over from {origin}", numbers)
        decide_with_retry(journal, lambda state: first if state.champion is None else None, notify=notify)
    decide_with_retry(journal, lambda state: _switch(former, state), notify=notify)
    decide_with_retry(journal, lambda state: _switch(former, state), notify=notify)
    return version


def _switch(former: LadderState, state: LadderState) -> Choice | None:
    """A switch that stands otherwise than with the former target; there are two."""
    reason = "as before the target was updated"
    if state.learner_paused != former.learner_paused:
        return Choice("pause" if former.learner_paused else "resume", None, ACTOR, reason)
    if state.speculation_off != former.speculation_off:
        kind: DecisionKind = "speculation_off" if former.speculation_off else "speculation_on"
        return Choice(kind, None, ACTOR, reason)
    return None


def _publish(store: ArtifactStore, old: str, champion: str, registry: DrafterRegistry) -> str:
    with tempfile.TemporaryDirectory(prefix="od-carry-") as scratch:
        directory = Path(scratch) / champion
        manifest = DrafterRegistry(store, old).fetch(champion, directory)
        path = directory / DRAFTER_MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "target": registry.target}, indent=2))
        provenance = Provenance(tenants=manifest.provenance.tenants, carried_over_from=f"{old}/{champion}")
        return registry.publish(directory, provenance)


def _published(registry: DrafterRegistry, origin: str) -> str | None:
    """What an interrupted update left."""
    for version in registry.list_versions():
        if registry.manifest(version).provenance.carried_over_from == origin:
            return version
    return None
