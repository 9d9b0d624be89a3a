"""What somebody should look at: conditions that last, with codes that stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from online_draft.control.replicas import Replicas, ReplicaView
from online_draft.monitor.drift.state import DriftState
from online_draft.registry.ladder import LadderState

AlarmCode = Literal[
    "stale_version",
    "unusable_version",
    "nothing_decided",
    "counts_unreadable",
    "learner_trouble",
    "drift",
    "learner_stalled",
    "buffer_lag",
    "books_unbalanced",
    "replica_silent",
    "journal_unreadable",
    "node_refused",
]


@dataclass(frozen=True, slots=True)
class Alarm:
    """`about` is a replica, a node, a version, an actor or a segment; `since_ms` 0 where it isn't known."""

    code: AlarmCode
    about: str
    message: str
    since_ms: int = 0


def version_alarms(
    state: LadderState,
    decided_ms: int,
    replicas: Mapping[str, ReplicaView],
    now_ms: int,
    stale_after_s: float,
) -> list[Alarm]:
    """Replicas that draft with something else than was decided at `decided_ms`, for too long or for good."""
    second = state.arms.second if state.arms is not None else None
    alarms = []
    for name, replica in replicas.items():
        if replica.seq > state.seq:
            continue  # it knows more than we do
        for version in (state.champion, second):
            reason = replica.unusable.get(version or "")
            if reason:
                alarms.append(Alarm("unusable_version", name, f"can't draft with {version}: {reason}"))
        since_ms = max(decided_ms, replica.started_ms)
        stale = (replica.version, replica.second) != (state.champion, second)
        if stale and now_ms - since_ms > stale_after_s * 1000:
            message = (
                f"drafts with {_shown(replica.version, replica.second)}, "
                f"decided is {_shown(state.champion, second)}"
            )
            alarms.append(Alarm("stale_version", name, message, since_ms))
    return alarms


def node_alarms(replicas: Replicas) -> list[Alarm]:
    """Replicas and nodes that are cut off from something, or that may not serve."""
    alarms = []
    for name, replica in replicas.alive.items():
        if replica.journal_error:
            message = f"can't read the journal and drafts with what it has: {replica.journal_error}"
            alarms.append(Alarm("journal_unreadable", name, message))
    for name, at_ms in replicas.silent.items():
        message = "says nothing: it is gone and none has taken its place, or it can't reach Redis"
        alarms.append(Alarm("replica_silent", name, message, at_ms))
    return alarms + [Alarm("node_refused", host, reason) for host, reason in replicas.refused.items()]


def drift_alarm(drift: DriftState) -> Alarm:
    """Drift acceptance of a segment fell."""
    champion = drift.figures.get("champion", {})
    cause = {
        "harder": "the traffic got harder",
        "stale": "the traffic moved from what the drafter knows",
        "regressed": "the drafter got worse",
    }.get(drift.verdict, "the cause isn't known yet")
    message = f"drift acceptance {champion.get('before')} -> {champion.get('after')}: {cause}"
    return Alarm("drift", drift.segment, message, drift.alarm_ms or 0)


def _shown(version: str | None, second: str | None) -> str:
    return f"{version or 'no version'} and {second}" if second else version or "no version"
