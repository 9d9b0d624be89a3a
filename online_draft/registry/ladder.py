"""The promotion ladder: pure transitions over decisions, and the one way to make a new decision.

decision  | legal when (nothing pinned for canary, promote, roll_back)      | effect
----------|-----------------------------------------------------------------|---------------------------------
propose   | version is not champion, candidate or canary                    | candidate, superseding an older
refuse    | version is not champion, previous or baseline; it may never     | leaves candidate and canary
          | have been proposed: the gate's numbers are kept                 |
canary    | champion exists, version is the candidate, no canary runs       | canary; candidate empties
promote   | version is not champion and: it is candidate or canary; or there| champion; the champion so far is
          | is no champion yet (bootstrap); or by hand, any version         | previous; the first is baseline
roll_back | version is previous                                             | champion; previous empties
pin       | version is champion, nothing is pinned                          | pinned
unpin     | version is pinned                                               | pinned empties
pause     | learner runs; no version                                        | learner_paused
resume    | learner is paused; no version                                   | not learner_paused

Only `admin` and `cli` (also `admin:<who>`, `cli:<who>`) decide by hand; every other actor is automatic.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from online_draft.errors import ConfigError, JournalError, LostRaceError, StoreError
from online_draft.registry.journal import KINDS, Decision, DecisionJournal, DecisionKind

HAND = ("admin", "cli")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LadderState:
    """What all decisions so far amount to. `baseline` is the first version ever promoted, the floor.
    `promoted` leaves out the bootstrap of a version that was never proposed; the rest count decisions."""

    champion: str | None = None
    previous: str | None = None
    baseline: str | None = None
    candidate: str | None = None
    canary: str | None = None
    pinned: str | None = None
    learner_paused: bool = False
    seq: int = 0
    proposed: int = 0
    promoted: int = 0
    refused: int = 0
    rolled_back: int = 0

    @property
    def in_use(self) -> frozenset[str]:
        """Versions that must stay on the artifact store."""
        named = (self.champion, self.previous, self.baseline, self.candidate, self.canary, self.pinned)
        return frozenset(version for version in named if version is not None)


def by_hand(actor: str) -> bool:
    """Whether a person decides (admin API or command line)."""
    return actor.split(":", 1)[0] in HAND


def apply(state: LadderState, decision: Decision) -> LadderState:
    """The state after a decision; the table above. ConfigError names the field that makes it illegal."""
    if decision.kind not in KINDS:
        raise ConfigError("kind", f"{decision.kind!r} is not one of {', '.join(KINDS)}")
    if decision.kind in ("pause", "resume"):
        changes = _switch_learner(state, decision)
    elif not decision.version:
        raise ConfigError("version", f"{decision.kind} needs a drafter version")
    else:
        changes = _TRANSITIONS[decision.kind](state, decision.version, decision.actor)
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


_Changes = dict[str, Any]


def _propose(state: LadderState, version: str, actor: str) -> _Changes:
    for role in ("champion", "candidate", "canary"):
        if version == getattr(state, role):
            raise ConfigError("version", f"{version} is already {role}")
    return {"candidate": version, "proposed": state.proposed + 1}


def _refuse(state: LadderState, version: str, actor: str) -> _Changes:
    for role in ("champion", "previous", "baseline"):
        if version == getattr(state, role):
            raise ConfigError(
                "version", f"{version} is {role} and can't be refused; roll back or promote another"
            )
    return {**_vacate(state, version), "refused": state.refused + 1}


def _canary(state: LadderState, version: str, actor: str) -> _Changes:
    _require_unpinned(state, "canary", actor)
    if state.champion is None:
        raise ConfigError("version", "a canary needs a champion to be compared with; promote one first")
    if state.canary is not None:
        raise ConfigError("version", f"{state.canary} is canary; promote or refuse it first")
    if version != state.candidate:
        raise ConfigError("version", f"{version} is not the candidate ({state.candidate or 'there is none'})")
    return {"canary": version, "candidate": None}


def _promote(state: LadderState, version: str, actor: str) -> _Changes:
    _require_unpinned(state, "promote", actor)
    if version == state.champion:
        raise ConfigError("version", f"{version} is already champion")
    climbed = version in (state.candidate, state.canary)
    if state.champion is None:
        promoted = state.promoted + int(climbed)
        return {**_vacate(state, version), "champion": version, "baseline": version, "promoted": promoted}
    if not climbed and not by_hand(actor):
        raise ConfigError(
            "version", f"{version} is neither candidate nor canary; only {' or '.join(HAND)} may"
        )
    return {
        **_vacate(state, version),
        "champion": version,
        "previous": state.champion,
        "promoted": state.promoted + 1,
    }


def _roll_back(state: LadderState, version: str, actor: str) -> _Changes:
    _require_unpinned(state, "roll_back", actor)
    if state.previous is None:
        raise ConfigError("version", "there is no previous version to roll back to; promote one by hand")
    if version != state.previous:
        raise ConfigError("version", f"roll_back goes to previous, which is {state.previous}, not {version}")
    return {
        **_vacate(state, version),
        "champion": version,
        "previous": None,
        "rolled_back": state.rolled_back + 1,
    }


def _pin(state: LadderState, version: str, actor: str) -> _Changes:
    if state.pinned is not None:
        raise ConfigError("version", f"{state.pinned} is pinned already")
    if version != state.champion:
        raise ConfigError("version", f"only the champion ({state.champion or 'none yet'}) can be pinned")
    return {"pinned": version}


def _unpin(state: LadderState, version: str, actor: str) -> _Changes:
    if version != state.pinned:
        raise ConfigError("version", f"{version} is not pinned (pinned: {state.pinned or 'nothing'})")
    return {"pinned": None}


def _switch_learner(state: LadderState, decision: Decision) -> _Changes:
    if decision.version is not None:
        raise ConfigError("version", f"{decision.kind} takes no version")
    paused = decision.kind == "pause"
    if paused == state.learner_paused:
        raise ConfigError("kind", f"the learner is {'already paused' if paused else 'not paused'}")
    return {"learner_paused": paused}


def _vacate(state: LadderState, version: str) -> _Changes:
    return {
        "candidate": None if state.candidate == version else state.candidate,
        "canary": None if state.canary == version else state.canary,
    }


def _require_unpinned(state: LadderState, kind: str, actor: str) -> None:
    if state.pinned is not None:
        way_out = "unpin it first" if by_hand(actor) else f"only {' or '.join(HAND)} can unpin it"
        raise ConfigError("version", f"{state.pinned} is pinned, {kind} is refused; {way_out}")


_TRANSITIONS: dict[str, Callable[[LadderState, str, str], _Changes]] = {
    "propose": _propose,
    "refuse": _refuse,
    "canary": _canary,
    "promote": _promote,
    "roll_back": _roll_back,
    "pin": _pin,
    "unpin": _unpin,
}
