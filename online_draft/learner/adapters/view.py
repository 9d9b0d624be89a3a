"""Adapters as re-gating sees them: which wait, what their files say, and its entries in the journal."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from online_draft.models.adapters.adapter import Adapter, AdapterCard
from online_draft.models.adapters.files import read_adapter, write_card
from online_draft.registry.adapters import CONFIG_FILE, WEIGHTS_FILE, AdapterRegistry
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.ladder import Choice, LadderState, apply, decide_with_retry, fold
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore

ACTOR = "learner"


class Weights(Protocol):
    """An adapter's weights, wherever they are."""

    def save(self, directory: Path, card: AdapterCard) -> object:
        """Write `peft`'s files and the card."""
        ...


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Those of an adapter that was fetched."""

    fetched: Path

    def save(self, directory: Path, card: AdapterCard) -> None:
        """Write `peft`'s files as they were, and the card."""
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(self.fetched / name, directory / name)
        write_card(directory, card)


class RegateView:
    """Reads and decides about the adapters of one target. Blocks on the artifact store (StoreError)."""

    def __init__(
        self, store: ArtifactStore, fingerprint: str, cache_dir: Path, notify: Callable[[Decision], None]
    ) -> None:
        self.fingerprint = fingerprint
        self._registry = AdapterRegistry(store, fingerprint)
        self._journal = DecisionJournal(store, fingerprint)
        self._cache_dir = cache_dir / f"{fingerprint}-adapters"
        self._notify = notify

    def fetch(self, adapter: str) -> tuple[Adapter, StoredWeights, Provenance]:
        """A published adapter, checked. ArtifactError when its files can't be used."""
        local = self._cache_dir / adapter
        manifest = self._registry.fetch(adapter, local)
        return read_adapter(local), StoredWeights(local), manifest.provenance

    def dropped(self) -> list[str]:
        """Segments without adapter because the learner dropped theirs since this champion was promoted."""
        state, found = LadderState(), dict[str, None]()
        for decision in self._journal.read():
            before, state = state, apply(state, decision)
            if state.champion != before.champion:
                found.clear()
            if decision.kind == "adapter_drop" and decision.actor == ACTOR:
                found[str(decision.numbers.get("segment"))] = None
        return [segment for segment in found if segment not in state.adapters]

    def keep(
        self,
        weights: Weights,
        card: AdapterCard,
        former: str | None,
        provenance: Provenance,
        reason: str,
        numbers: Mapping[str, Any],
    ) -> str | None:
        """Publish an adapter that beats none on `card.base_version` and load it; its id.

        It takes the place of `former`, which waits; without one the segment must have none. None when
        somebody decided otherwise meanwhile.
        """
        base, segment = card.base_version, card.segment
        with tempfile.TemporaryDirectory(prefix="od-adapter-") as scratch:
            weights.save(Path(scratch), card)
            adapter = self._registry.publish(Path(scratch), base, provenance)

        def rule(state: LadderState) -> Choice | None:
            if state.champion != base or segment in state.adapters:
                return None
            if former is not None and state.waiting_adapters.get(segment) != former:
                return None
            about = {"segment": segment, "base": base, **numbers}
            return Choice("adapter_load", adapter, ACTOR, reason, about)

        if decide_with_retry(self._journal, rule, notify=self._notify) is None:
            return None
        self._registry.prune(fold(self._journal.read()).adapters_in_use)
        return adapter

    def drop(self, adapter: str, segment: str, base: str, reason: str, numbers: Mapping[str, Any]) -> bool:
        """Drop a waiting adapter that doesn't beat none on `base`; False when somebody decided meanwhile."""

        def rule(state: LadderState) -> Choice | None:
            if state.champion != base or state.waiting_adapters.get(segment) != adapter:
                return None
            about = {"segment": segment, "base": base, **numbers}
            return Choice("adapter_drop", adapter, ACTOR, reason, about)

        return decide_with_retry(self._journal, rule, notify=self._notify) is not None
