"""What `/metrics` says of the whole system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from online_draft.buffer.books import Books
from online_draft.core import SpeculationCounts
from online_draft.errors import StoreError
from online_draft.monitor.counts import CountsBoard
from online_draft.registry.journal import Decision
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.system_metrics import FRESH_S, SystemMetrics
from online_draft.store import RedisKeys

KEYS = RedisKeys("test")
LEARNER = {
    "feed": {
        "lag": 7, "lost_in_crash": 2, "reader": {}, "training": 0, "held_out": 0, "duplicate": 0,
        "repetition": 0, "segments": {},
    }
}  # fmt: skip


class FakeRedis:
    """Hashes and a stream's length."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.asked = 0

    def hset(self, key: str, mapping: dict[bytes, bytes]) -> None:
        self.hashes.setdefault(key, {}).update(mapping)

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        self.asked += 1
        return self.hashes.get(key, {})

    def xlen(self, key: str) -> int:
        return 11


@pytest.fixture
def fake() -> FakeRedis:
    fake = FakeRedis()
    board = CountsBoard(KEYS, "replica")
    board.add("sql", "v1", SpeculationCounts(steps=4, committed=10))
    board.add("chat", None, SpeculationCounts(steps=2, committed=2))
    board.publish(fake, True)
    books = Books(produced=5, stored=3, spooled=1, dropped=1)
    fake.hset(KEYS.books, {b"w": books.pack()})
    return fake


@pytest.fixture
def desk(tmp_path: Path, fake: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> AdminDesk:
    desk = AdminDesk(str(tmp_path), "llama-0000000000000000-00000000", None, KEYS)
    status = {"learner": LEARNER, "control": {"alarms": [{"code": "drift"}, {"code": "drift"}]}}
    monkeypatch.setattr(desk, "redis_client", lambda: (fake, KEYS))
    monkeypatch.setattr(desk, "actor_status", status.get)
    for number, kind in enumerate(("promote", "promote", "roll_back")):
        desk.journal.append(number, Decision(0, kind, "v1", "test", ""))  # type: ignore[arg-type]
    return desk


def samples(metrics: SystemMetrics) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = ",".join(value for name, value in sample.labels.items() if name != "model")
            found[f"{sample.name}:{labels}" if labels else sample.name] = sample.value
    return found


def test_the_whole_system_is_counted(desk: AdminDesk) -> None:
    found = samples(SystemMetrics(desk))
    expected = {
        "online_draft_steps_total": 6, "online_draft_committed_tokens_total": 12, "online_draft_replicas": 0,
        "online_draft_alarms:drift": 2, "online_draft_decisions_total:promote": 2,
        "online_draft_decisions_total:roll_back": 1, "online_draft_decisions_total:refuse": 0,
        "online_draft_records_total:stored": 3, "online_draft_records_total:dropped": 1,
        "online_draft_records_spooled": 1, "online_draft_books_balanced": 1,
        "online_draft_stream_records": 11, "online_draft_stream_lag": 7, "online_draft_records_lost_total": 2,
        "online_draft_dependency_up:redis": 1, "online_draft_dependency_up:store": 1,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == expected


def test_books_that_do_not_balance_are_seen(desk: AdminDesk, fake: FakeRedis) -> None:
    fake.hset(KEYS.books, {b"w": Books(produced=5, stored=3).pack()})
    assert samples(SystemMetrics(desk))["online_draft_books_balanced"] == 0


def test_without_redis_the_rest_is_there(desk: AdminDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise StoreError("redis is away")

    monkeypatch.setattr(desk, "redis_client", away)
    found = samples(SystemMetrics(desk))
    assert found["online_draft_dependency_up:redis"] == 0
    assert found["online_draft_decisions_total:promote"] == 2
    assert "online_draft_steps_total" not in found


def test_a_silent_control_is_an_alarm(desk: AdminDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "actor_status", lambda name: None)
    found = samples(SystemMetrics(desk))
    assert found["online_draft_alarms:control_silent"] == 1
    assert "online_draft_stream_lag" not in found


def test_many_who_ask_cost_one_look(desk: AdminDesk, fake: FakeRedis) -> None:
    now = [100.0]
    metrics = SystemMetrics(desk, lambda: now[0])
    first = metrics.text()
    asked = fake.asked
    assert metrics.text() == first and fake.asked == asked
    now[0] += FRESH_S + 1
    metrics.text()
    assert fake.asked == 2 * asked
