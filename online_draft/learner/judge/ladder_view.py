"""What the journal says, as the learner needs it; and the learner's own entries in it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from online_draft.models.artifact import load_drafter, save_drafter, weights_digest
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.ladder import Choice, LadderState, decide_with_retry, fold
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore

ACTOR = "learner"


class LadderView:
    """Follows one target's journal, fetches champions, proposes and refuses. Blocks on the artifact store."""

    def __init__(
        self,
        store: ArtifactStore,
        target: Target,
        fingerprint: str,
        cache_dir: Path,
        notify: Callable[[Decision], None],
    ) -> None:
        self._registry = DrafterRegistry(store, fingerprint)
        self._journal = DecisionJournal(store, fingerprint)
        self._target = target
        self._fingerprint = fingerprint
        self._cache_dir = cache_dir
        self._notify = notify
        self.state = LadderState()
        self.champion_since_ms = 0
        self.proposed = 0
        self.refused = 0

    def refresh(self) -> LadderState:
        """Read what was decided meanwhile. StoreError or JournalError when the journal can't be read."""
        for decision in self._journal.read(after=self.state.seq):
            before = self.state.champion
            self.state = fold([decision], self.state)
            if self.state.champion != before:
                self.champion_since_ms = decision.at_ms
        return self.state

    def fetch(self, version: str) -> Drafter:
        """A published drafter, checked and bound to the target. ArtifactError, StoreError."""
        local = self._cache_dir / self._fingerprint / version
        self._registry.fetch(version, local)
        return load_drafter(local, self._target, self._fingerprint)

    def tenants(self, version: str) -> tuple[str, ...]:
        """Marks of the tenants whose records trained a version. ArtifactError, StoreError."""
        return self._registry.manifest(version).provenance.tenants

    def propose(
        self, candidate: Drafter, parent: str, provenance: Provenance, reason: str, numbers: Mapping[str, Any]
    ) -> str | None:
        """Publish a candidate that passed the gate and propose it; its version. None when `parent` isn't
        champion any more or another proposal waits. ArtifactError, StoreError, JournalError."""
        with tempfile.TemporaryDirectory(prefix="od-candidate-") as scratch:
            save_drafter(candidate, scratch, self._fingerprint, {"parent": parent})
            version = self._registry.publish(Path(scratch), provenance)

        def rule(state: LadderState) -> Choice | None:
            if state.champion != parent or state.candidate is not None or state.canary is not None:
                return None
            return Choice("propose", version, ACTOR, reason, {**numbers, "parent": parent})

        if decide_with_retry(self._journal, rule, notify=self._notify) is None:
            return None
        self.proposed += 1
        return version

    def refuse(self, candidate: Drafter, parent: str, reason: str, numbers: Mapping[str, Any]) -> str:
        """Enter a candidate that failed the gate and is never published; its name in the journal."""
        name = f"unpublished-{weights_digest(candidate)[:8]}"
        choice = Choice("refuse", name, ACTOR, reason, {**numbers, "parent": parent})
        decide_with_retry(self._journal, lambda _: choice, notify=self._notify)
        self.refused += 1
        return name
