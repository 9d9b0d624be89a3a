"""The rules of the ladder: what control decides, as a function of the journal and of what replicas report.

candidate -> canary -> champion, watched -> champion. Nothing is decided over a pin, nor about arms whose
counts can't be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from online_draft.control.comparison import Comparison
from online_draft.control.config import ControlConfig
from online_draft.registry.arms import CONTROL_SHARE, SHARE, Arms
from online_draft.registry.ladder import Choice, LadderState

ACTOR = "control"


@dataclass(frozen=True, slots=True)
class Facts:
    """What control knows beside the ladder's state, at `now_ms`.

    `proposal`: reason and numbers that the candidate, or else the canary, was proposed with; `flaw`: why the
    candidate's files can't be used; `comparison`: the canary against the champion, or the champion against
    its forerunner, None when the counts can't be read; `unusable`: why a replica can't draft with the canary.
    """

    now_ms: int
    proposal: tuple[str, Mapping[str, Any]] = ("", field(default_factory=dict))
    flaw: str = ""
    comparison: Comparison | None = None
    unusable: str = ""


def choose(state: LadderState, facts: Facts, config: ControlConfig) -> Choice | None:
    """What to decide now, if anything."""
    if state.pinned is not None:
        return None
    if state.canary is not None:
        return _about_canary(state, state.canary, facts, config)
    if state.candidate is not None:
        refused = _misfit(state, state.candidate, facts)
        if refused is not None:
            return refused
    if state.arms is not None and state.champion is not None:
        return _about_watch(state, state.champion, state.arms, facts, config)
    if state.candidate is not None:
        return _about_candidate(state.candidate, facts, config)
    return None


def _misfit(state: LadderState, candidate: str, facts: Facts) -> Choice | None:
    _, gate = facts.proposal
    if facts.flaw:
        return Choice("refuse", candidate, ACTOR, facts.flaw, gate)
    parent = gate.get("parent", state.champion)
    if parent != state.champion:
        reason = f"it was measured against {parent}, but {state.champion or 'no version'} serves"
        return Choice("refuse", candidate, ACTOR, reason, gate)
    return None


def _about_candidate(candidate: str, facts: Facts, config: ControlConfig) -> Choice:
    reason, gate = facts.proposal
    if config.canary_share == 0:
        return Choice("promote", candidate, ACTOR, reason, {**gate, **_watch(config)})
    return Choice("canary", candidate, ACTOR, reason, {**gate, SHARE: config.canary_share})


def _about_canary(state: LadderState, canary: str, facts: Facts, config: ControlConfig) -> Choice | None:
    _, gate = facts.proposal
    arms = state.arms
    if arms is None or arms.second != canary:
        reason = f"another version than it was compared with serves: {state.champion}"
        return Choice("refuse", canary, ACTOR, reason, gate)
    seconds = _seconds(arms, facts)
    if facts.unusable:
        # A replica tries again now and then.
        late = seconds >= config.canary_max_s
        return Choice("refuse", canary, ACTOR, facts.unusable, gate) if late else None
    found = facts.comparison
    if found is None:
        return None
    numbers = {**gate, **_live(found, seconds, config)}
    if found.worse(config.worse_alpha, config.worse_by, config.worse_requests):
        return Choice("refuse", canary, ACTOR, f"worse than {state.champion} live: {_taus(found)}", numbers)
    enough = min(found.our_requests, found.their_requests) >= config.canary_requests
    if enough and found.gain > -config.worse_by:
        reason = f"held against {state.champion} live: {_taus(found)}"
        return Choice("promote", canary, ACTOR, reason, {**numbers, **_watch(config)})
    if seconds < config.canary_max_s:
        return None
    if enough:
        reason = f"behind {state.champion} live for {seconds:.0f} s: {_taus(found)}"
        return Choice("refuse", canary, ACTOR, reason, numbers)
    reason = f"too little traffic in {seconds:.0f} s to compare it live"
    if config.canary_timeout == "refuse":
        return Choice("refuse", canary, ACTOR, reason, numbers)
    return Choice(
        "promote", canary, ACTOR, f"{reason}; the gate's evidence stands", {**numbers, **_watch(config)}
    )


def _about_watch(
    state: LadderState, champion: str, arms: Arms, facts: Facts, config: ControlConfig
) -> Choice | None:
    found = facts.comparison
    if found is None:
        return None
    seconds = _seconds(arms, facts)
    numbers = _live(found, seconds, config)
    if found.worse(config.worse_alpha, config.worse_by, config.worse_requests):
        reason = f"{champion} is worse than {arms.second} live: {_taus(found)}"
        return Choice("roll_back", arms.second, ACTOR, reason, {**numbers, "from": champion})
    if seconds >= config.watch_s:
        reason = f"not found worse than {arms.second} in {seconds:.0f} s"
    elif state.candidate is not None and seconds >= config.watch_min_s:
        reason = f"not found worse than {arms.second} in {seconds:.0f} s, and {state.candidate} waits"
    else:
        return None
    return Choice("settle", champion, ACTOR, reason, numbers)


def _watch(config: ControlConfig) -> dict[str, Any]:
    return {CONTROL_SHARE: config.watch_share} if config.watch_share else {}


def _live(found: Comparison, seconds: float, config: ControlConfig) -> dict[str, Any]:
    return {"live": {**found.as_numbers(config.worse_alpha), "seconds": round(seconds, 1)}}


def _seconds(arms: Arms, facts: Facts) -> float:
    return max(0, facts.now_ms - arms.at_ms) / 1000


def _taus(found: Comparison) -> str:
    return (
        f"τ {found.our_tau:.2f} on {found.our_requests} requests, "
        f"{found.their_tau:.2f} on {found.their_requests}"
    )
