"""The promotion ladder: pure transitions over decisions, and the one way to make a new decision.

What is legal when, and what it changes, stand in `drafter_rules` and `adapter_rules`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from online_draft.errors import ConfigError, JournalError, LostRaceError, StoreError
from online_draft.registry import adapter_rules
from online_draft.registry.arms import Arms
from online_draft.registry.drafter_rules import by_hand, drafter_changes
from online_draft.registry.journal import KINDS, Decision, DecisionJournal, DecisionKind

logger = logging.getLogger(__name__)

LADDER_KINDS = tuple(kind for kind in KINDS if kind != "retarget")


@dataclass(frozen=True, slots=True)
class LadderState:
    """What all decisions so far amount to. `baseline` is the first version ever promoted, the floor.
    `promoted` leaves out the bootstrap of a version that was never proposed; the rest count decisions.
    `arms`: a second version drafts beside the champion.
    Adapters by segment: loaded on the champion, on `previous`, and those that wait for a decision."""

    champion: str | None = None
    previous: str | None = None
    baseline: str | None = None
    candidate: str | None = None
    canary: str | None = None
    pinned: str | None = None
    learner_paused: bool = False
    speculation_off: bool = False
    seq: int = 0
    proposed: int = 0
    promoted: int = 0
    refused: int = 0
    rolled_back: int = 0
    arms: Arms | None = None
    adapters: Mapping[str, str] = field(default_factory=dict, hash=False)
    previous_adapters: Mapping[str, str] = field(default_factory=dict, hash=False)
    waiting_adapters: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def watched(self) -> bool:
        """Whether the champion is compared with the one before it."""
        return self.arms is not None and self.arms.role == "control"

    @property
    def in_use(self) -> frozenset[str]:
        """Versions that must stay on the artifact store."""
        named = (self.champion, self.previous, self.baseline, self.candidate, self.canary, self.pinned)
        return frozenset(version for version in named if version is not None)

    @property
    def adapters_in_use(self) -> frozenset[str]:
        """Adapters that must stay on the artifact store."""
        by_segment = (self.adapters, self.previous_adapters, self.waiting_adapters)
        return frozenset(adapter for adapters in by_segment for adapter in adapters.values())


def apply(state: LadderState, decision: Decision) -> LadderState:
    """The state after a decision; `drafter_rules`. ConfigError names the field that makes it illegal."""
    if decision.kind not in LADDER_KINDS:
        raise ConfigError("kind", f"{decision.kind!r} is not one of {', '.join(LADDER_KINDS)}")
    if decision.kind in adapter_rules.KINDS:
        changes = adapter_rules.adapter_changes(state, decision, by_hand(decision.actor))
    else:
        changes = drafter_changes(state, decision)
    champion = changes.get("champion", state.champion)
    if champion != state.champion:
        changes |= adapter_rules.rebased(state, champion, changes.get("previous", state.previous))
    return replace(state, seq=decision.seq, **changes)


def fold(decisions: Iterable[Decision], state: LadderState | None = None) -> LadderState:
    """The state after all decisions, in order. JournalError names an entry that is illegal or misplaced."""
    state = state or LadderState()
    for decision in decisions:
        if decision.seq != state.seq + 1:
            raise JournalError(
                f"decision {decision.seq} follows {state.seq}; entries are missing or reordered"
            )
        try:
            state = apply(state, decision)
        except ConfigError as error:
            raise JournalError(f"decision {decision.seq} ({decision.kind}) is illegal: {error}") from error
    return state


def decide(
    journal: DecisionJournal,
    expected_seq: int,
    kind: DecisionKind,
    version: str | None = None,
    actor: str = "control",
    reason: str = "",
    numbers: Mapping[str, Any] | None = None,
    *,
    known: Collection[str] | None = None,
    notify: Callable[[Decision], None] | None = None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Decision:
    """Make one decision: the only writer that control actor, admin API and command line use. Blocks.

    `expected_seq` is the state's `seq` that the caller decided on. `version` may be left out for
    roll_back, pin and unpin. With `known`, a version outside it can't be promoted or proposed. `notify`
    gets the durable decision (a wake-up); its StoreError is logged, as replicas poll anyway.
    LostRaceError: somebody decided meanwhile. ConfigError: illegal now, with the reason.
    """
    state = fold(journal.read())
    if state.seq != expected_seq:
        raise LostRaceError(f"the journal is at {state.seq}, not {expected_seq}; read again and decide again")
    if version is None:
        implied = {"roll_back": state.previous, "pin": state.champion, "unpin": state.pinned}
        version = implied.get(kind)
        if version is None and kind in implied:
            raise ConfigError("version", f"there is nothing to {kind.replace('_', ' ')}")
    if known is not None and kind in ("propose", "promote") and version not in known:
        raise ConfigError("version", f"{version} is not in the registry; known: {', '.join(sorted(known))}")
    decision = Decision(expected_seq + 1, kind, version, actor, reason, dict(numbers or {}), now_ms())
    apply(state, decision)
    written = journal.append(expected_seq, decision)
    if notify is not None:
        try:
            notify(written)
        except StoreError as error:
            logger.warning("no wake-up for decision %d: %s", written.seq, error)
    return written


@dataclass(frozen=True, slots=True)
class Choice:
    """What a rule wants to decide on a given state."""

    kind: DecisionKind
    version: str | None = None
    actor: str = "control"
    reason: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)


def decide_with_retry(
    journal: DecisionJournal,
    rule: Callable[[LadderState], Choice | None],
    *,
    known: Collection[str] | None = None,
    notify: Callable[[Decision], None] | None = None,
    attempts: int = 100,
) -> Decision | None:
    """Ask `rule` for a choice on the current state and decide it; after a lost race ask again on the new
    state. None when the rule has nothing to decide. The last LostRaceError after `attempts`."""
    for attempt in range(1, attempts + 1):
        state = fold(journal.read())
        choice = rule(state)
        if choice is None:
            return None
        try:
            return decide(
                journal,
                state.seq,
                choice.kind,
                choice.version,
                choice.actor,
                choice.reason,
                choice.numbers,
                known=known,
                notify=notify,
            )
        except LostRaceError:
            if attempt == attempts:
                raise
    return None
