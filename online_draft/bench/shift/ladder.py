"""Control's rules in one process: journal and artifacts in a folder, counts by hand, a clock of requests."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from online_draft.control.comparison import Comparison, compare
from online_draft.control.config import ControlConfig
from online_draft.control.rules import Facts, choose
from online_draft.errors import ArtifactError
from online_draft.models.drafter import Drafter
from online_draft.monitor.arms import ArmCounts
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.ladder import Choice, LadderState, decide, decide_with_retry, fold
from online_draft.registry.manifest import Provenance
from online_draft.serve.lineup import Lineup
from online_draft.store import ArtifactStore

LADDER = ControlConfig(
    canary_share=0.25, canary_requests=8, canary_max_s=60.0, watch_share=0.1, watch_min_s=20.0, watch_s=120.0
)
"""Shares and waits, as short as in the demo."""
_SHOWN = ("canary_share", "canary_requests", "canary_max_s", "watch_share", "watch_min_s", "watch_s")


def shown() -> dict[str, Any]:
    """Those of `LADDER` that aren't the defaults, by name."""
    return {name: value for name, value in asdict(LADDER).items() if name in _SHOWN}


class Ladder:
    """Decides between two requests. A request takes `1 / rate` seconds on its clock, so that what is decided
    doesn't depend on the machine."""

    def __init__(self, store: ArtifactStore, fingerprint: str, rate: float, config: ControlConfig) -> None:
        self.journal = DecisionJournal(store, fingerprint)
        self.registry = DrafterRegistry(store, fingerprint)
        self._config = config
        self._ms = 1000 / rate
        self._arms: str | None = None
        self._requests = 0
        self._counts: dict[str, dict[str, ArmCounts]] = {}

    def start(self, directory: Path, name: str) -> None:
        """Publish the drafter in a directory; it is champion."""
        version = self.registry.publish(directory, Provenance(), name=name)
        decide(self.journal, 0, "promote", version, "admin", "start of the measurement")

    @property
    def state(self) -> LadderState:
        """The fold of the journal."""
        return fold(self.journal.read())

    def note(self, segment: str, version: str | None, steps: int, committed: int) -> None:
        """A request has ended; `version` alone drafted for it, None if several did."""
        self._requests += 1
        if version is not None:
            cell = self._counts.setdefault(version, {}).setdefault(segment, ArmCounts())
            cell.add(ArmCounts.of(steps, committed))

    def tick(self) -> list[Decision]:
        """Decide all that can be decided now."""
        made: list[Decision] = []
        while (decision := decide_with_retry(self.journal, self._choose)) is not None:
            made.append(decision)
        return made

    def lineup(self, resident: dict[str, Drafter]) -> Lineup[Drafter]:
        """What should draft now. `resident` has the drafters of the versions in use."""
        state = self.state
        assert state.champion is not None
        if state.arms is None:
            return Lineup(resident[state.champion], state.champion)
        arms = state.arms
        return Lineup(
            resident[state.champion],
            state.champion,
            resident[arms.second],
            arms.second,
            arms.share,
            arms.name,
        )

    def _choose(self, state: LadderState) -> Choice | None:
        arms = None if state.arms is None else state.arms.name
        if arms != self._arms:
            self._arms, self._requests, self._counts = arms, 0, {}
        return choose(state, self._facts(state), self._config)

    def _facts(self, state: LadderState) -> Facts:
        climbing = state.canary or state.candidate
        proposals = (d for d in reversed(self.journal.read()) if (d.kind, d.version) == ("propose", climbing))
        proposal = next(proposals, None)
        since_ms = 0 if state.arms is None else state.arms.at_ms
        return Facts(
            since_ms + round(self._requests * self._ms),
            ("", {}) if proposal is None else (proposal.reason, proposal.numbers),
            self._flaw(state.candidate) if state.candidate and state.arms is None else "",
            self._comparison(state),
        )

    def _comparison(self, state: LadderState) -> Comparison | None:
        if state.arms is None or state.champion is None:
            return None
        first, second = self._counts.get(state.champion, {}), self._counts.get(state.arms.second, {})
        return compare(second, first) if state.arms.role == "canary" else compare(first, second)

    def _flaw(self, version: str) -> str:
        try:
            self.registry.verify(version)
        except ArtifactError as error:
            return str(error)
        return ""
