from __future__ import annotations

from typing import Any, get_args

from online_draft.control.alarms import Alarm, AlarmCode, version_alarms
from online_draft.control.replicas import ReplicaView
from online_draft.registry.arms import Arms
from online_draft.registry.ladder import LadderState

ALONE = LadderState(champion="v1")
CANARY = LadderState(champion="v1", canary="v2", arms=Arms("canary", "v2", 0.1, 3, 50_000))
FRESH = ReplicaView("v1", None, 0)


def alarms(state: LadderState, now_ms: int, **replicas: ReplicaView) -> list[Alarm]:
    return version_alarms(state, 50_000, replicas, now_ms, stale_after_s=30)


def test_a_replica_on_the_decided_versions_is_fine() -> None:
    assert alarms(ALONE, 10**9, r1=FRESH) == []
    assert alarms(CANARY, 10**9, r1=ReplicaView("v1", "v2", 0)) == []
    assert alarms(ALONE, 10**9) == []


def test_a_replica_on_another_version_alarms_after_a_while() -> None:
    stale = ReplicaView("v0", None, 0)
    assert alarms(ALONE, 80_000, r1=FRESH, r2=stale) == []
    assert alarms(ALONE, 80_001, r1=FRESH, r2=stale) == [
        Alarm("stale_version", "r2", "drafts with v0, decided is v1", 50_000)
    ]


def test_a_replica_without_the_second_version_or_with_a_former_one_is_stale_too() -> None:
    (alarm,) = alarms(CANARY, 90_000, r1=FRESH)
    assert alarm.message == "drafts with v1, decided is v1 and v2"
    (alarm,) = alarms(ALONE, 90_000, r1=ReplicaView("v1", "v2", 0))
    assert alarm.message == "drafts with v1 and v2, decided is v1"
    (alarm,) = alarms(ALONE, 90_000, r1=ReplicaView(None, None, 0))
    assert alarm.message == "drafts with no version, decided is v1"


def test_a_replica_that_has_just_started_gets_the_same_while() -> None:
    starting = ReplicaView(None, None, 70_000)
    assert alarms(ALONE, 100_000, r1=starting) == []
    assert alarms(ALONE, 100_001, r1=starting)[0].since_ms == 70_000


def test_a_version_that_can_not_be_used_alarms_at_once_while_it_is_wanted() -> None:
    replica = ReplicaView("v1", None, 0, {"v2": "corrupt", "v0": "old"})
    assert alarms(CANARY, 50_000, r1=replica) == [
        Alarm("unusable_version", "r1", "can't draft with v2: corrupt")
    ]
    assert alarms(ALONE, 50_000, r1=replica) == []


def test_the_codes_are_frozen() -> None:
    codes: tuple[Any, ...] = get_args(AlarmCode)
    assert codes == (
        "stale_version", "unusable_version", "nothing_decided", "counts_unreadable", "learner_trouble",
        "drift", "learner_stalled", "buffer_lag", "books_unbalanced", "replica_silent", "journal_unreadable",
        "node_refused",
    )  # fmt: skip


def test_a_replica_that_knows_more_of_the_journal_than_control_is_not_stale() -> None:
    ahead = ReplicaView("v2", None, 0, seq=ALONE.seq + 1)
    assert alarms(ALONE, 10**9, r1=ahead) == []
