"""What decisions about drafter versions and the learner change, and when they are legal.

decision  | legal when (nothing pinned for canary, promote, roll_back)      | effect
----------|-----------------------------------------------------------------|---------------------------------
propose   | version is not champion, candidate or canary                    | candidate, superseding an older
refuse    | version is not champion, previous or baseline; it may never     | leaves candidate and canary
          | have been proposed: the gate's numbers are kept                 |
canary    | champion exists, version is the candidate, no canary or watch   | canary, with arms; candidate
          | runs                                                            | empties
promote   | version is not champion and: it is candidate or canary; or there| champion; the champion so far is
          | is no champion yet (bootstrap); or by hand, any version         | previous, and control arm if the
          |                                                                 | entry says so; first: baseline
settle    | version is champion and is watched                              | the watch is over
roll_back | version is previous                                             | champion; previous, watch empty
pin       | version is champion, nothing is pinned                          | pinned; the watch ends, a canary
          |                                                                 | is candidate (if none waits)
unpin     | version is pinned                                               | pinned empties
pause     | learner runs; no version                                        | learner_paused
resume    | learner is paused; no version                                   | not learner_paused
speculation_off, speculation_on: whether requests are drafted for; no version | speculation_off, or not

A canary and a watch are two *arms* of sequences (`registry.arms`). Arms end with the champion that they were
compared with: such a canary drafts for nobody and waits to be refused.
Only `admin` and `cli` (also `admin:<who>`, `cli:<who>`) decide by hand; every other actor is automatic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from online_draft.errors import ConfigError
from online_draft.registry.arms import canary_arms, watch_arms
from online_draft.registry.journal import Decision

if TYPE_CHECKING:
    from online_draft.registry.ladder import LadderState

HAND = ("admin", "cli")

_Changes = dict[str, Any]


def by_hand(actor: str) -> bool:
    """Whether a person decides (admin API or command line)."""
    return actor.split(":", 1)[0] in HAND


def drafter_changes(state: LadderState, decision: Decision) -> _Changes:
    """The fields of `state` that a decision changes. ConfigError names the field that makes it illegal."""
    if decision.kind in ("pause", "resume"):
        return _switch_learner(state, decision)
    if decision.kind in ("speculation_off", "speculation_on"):
        return _switch_speculation(state, decision)
    if not decision.version:
        raise ConfigError("version", f"{decision.kind} needs a drafter version")
    return _TRANSITIONS[decision.kind](state, decision.version, decision)


def _propose(state: LadderState, version: str, decision: Decision) -> _Changes:
    for role in ("champion", "candidate", "canary"):
        if version == getattr(state, role):
            raise ConfigError("version", f"{version} is already {role}")
    return {"candidate": version, "proposed": state.proposed + 1}


def _refuse(state: LadderState, version: str, decision: Decision) -> _Changes:
    for role in ("champion", "previous", "baseline"):
        if version == getattr(state, role):
            raise ConfigError(
                "version", f"{version} is {role} and can't be refused; roll back or promote another"
            )
    arms = None if state.arms is not None and state.arms.second == version else state.arms
    return {**_vacate(state, version), "arms": arms, "refused": state.refused + 1}


def _canary(state: LadderState, version: str, decision: Decision) -> _Changes:
    _require_unpinned(state, "canary", decision.actor)
    if state.champion is None:
        raise ConfigError("version", "a canary needs a champion to be compared with; promote one first")
    if state.canary is not None:
        raise ConfigError("version", f"{state.canary} is canary; promote or refuse it first")
    if state.watched:
        raise ConfigError("version", f"{state.champion} is still watched; settle that first")
    if version != state.candidate:
        raise ConfigError("version", f"{version} is not the candidate ({state.candidate or 'there is none'})")
    return {"canary": version, "candidate": None, "arms": canary_arms(decision, version)}


def _promote(state: LadderState, version: str, decision: Decision) -> _Changes:
    _require_unpinned(state, "promote", decision.actor)
    if version == state.champion:
        raise ConfigError("version", f"{version} is already champion")
    climbed = version in (state.candidate, state.canary)
    if state.champion is None:
        promoted = state.promoted + int(climbed)
        return {**_vacate(state, version), "champion": version, "baseline": version, "promoted": promoted}
    if not climbed and not by_hand(decision.actor):
        raise ConfigError(
            "version", f"{version} is neither candidate nor canary; only {' or '.join(HAND)} may"
        )
    return {
        **_vacate(state, version),
        "champion": version,
        "previous": state.champion,
        "promoted": state.promoted + 1,
        "arms": watch_arms(decision, state.champion),
    }


def _settle(state: LadderState, version: str, decision: Decision) -> _Changes:
    if version != state.champion or not state.watched:
        raise ConfigError("version", f"{version} isn't a champion that is watched")
    return {"arms": None}


def _roll_back(state: LadderState, version: str, decision: Decision) -> _Changes:
    _require_unpinned(state, "roll_back", decision.actor)
    if state.previous is None:
        raise ConfigError("version", "there is no previous version to roll back to; promote one by hand")
    if version != state.previous:
        raise ConfigError("version", f"roll_back goes to previous, which is {state.previous}, not {version}")
    return {
        **_vacate(state, version),
        "champion": version,
        "previous": None,
        "rolled_back": state.rolled_back + 1,
        "arms": None,
    }


def _pin(state: LadderState, version: str, decision: Decision) -> _Changes:
    if state.pinned is not None:
        raise ConfigError("version", f"{state.pinned} is pinned already")
    if version != state.champion:
        raise ConfigError("version", f"only the champion ({state.champion or 'none yet'}) can be pinned")
    candidate = state.candidate or state.canary
    return {"pinned": version, "candidate": candidate, "canary": None, "arms": None}


def _unpin(state: LadderState, version: str, decision: Decision) -> _Changes:
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


def _switch_speculation(state: LadderState, decision: Decision) -> _Changes:
    if decision.version is not None:
        raise ConfigError("version", f"{decision.kind} takes no version")
    off = decision.kind == "speculation_off"
    if off == state.speculation_off:
        raise ConfigError("kind", f"speculation is {'off' if off else 'on'} already")
    return {"speculation_off": off}


def _vacate(state: LadderState, version: str) -> _Changes:
    return {
        "candidate": None if state.candidate == version else state.candidate,
        "canary": None if state.canary == version else state.canary,
    }


def _require_unpinned(state: LadderState, kind: str, actor: str) -> None:
    if state.pinned is not None:
        way_out = "unpin it first" if by_hand(actor) else f"only {' or '.join(HAND)} can unpin it"
        raise ConfigError("version", f"{state.pinned} is pinned, {kind} is refused; {way_out}")


_TRANSITIONS: dict[str, Callable[[LadderState, str, Decision], _Changes]] = {
    "propose": _propose,
    "refuse": _refuse,
    "canary": _canary,
    "promote": _promote,
    "settle": _settle,
    "roll_back": _roll_back,
    "pin": _pin,
    "unpin": _unpin,
}
