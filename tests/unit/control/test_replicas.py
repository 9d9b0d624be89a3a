"""Which replicas are alive, missed or refused, as Redis tells."""

from __future__ import annotations

from typing import Any

import pytest

from online_draft.control.alarms import Alarm, node_alarms
from online_draft.control.replicas import FORGOTTEN_MS, SILENT_MS, read_replicas
from online_draft.monitor.load import Load, publish_load
from online_draft.store import RedisKeys
from online_draft.store.packing import pack

KEYS = RedisKeys("test")
NOW_MS = 10_000_000


class FakeRedis:
    """Hashes and strings."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.strings: dict[str, bytes] = {}

    def hset(self, key: str, name: str, value: bytes) -> None:
        self.hashes.setdefault(key, {})[name.encode()] = value

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return self.hashes.get(key, {})

    def expire(self, key: str, seconds: int) -> None:
        pass

    def mget(self, names: list[str]) -> list[bytes | None]:
        return [self.strings.get(name) for name in names]


@pytest.fixture
def fake() -> FakeRedis:
    return FakeRedis()


def say(fake: FakeRedis, name: str, ago_ms: int, started_ms: int = 0, **status: Any) -> None:
    publish_load(fake, KEYS, name, Load(0, 0, NOW_MS - ago_ms))
    fake.strings[KEYS.status(name)] = pack({"started_at_ms": started_ms, **status})


def alarms(fake: FakeRedis) -> list[Alarm]:
    return node_alarms(read_replicas(fake, KEYS, NOW_MS))  # type: ignore[arg-type]


def test_nobody_is_missed_at_once_or_for_ever(fake: FakeRedis) -> None:
    assert alarms(fake) == []
    say(fake, "alive", 100)
    say(fake, "late", SILENT_MS)
    say(fake, "forgotten", FORGOTTEN_MS + 1)
    assert alarms(fake) == []
    assert list(read_replicas(fake, KEYS, NOW_MS).alive) == ["alive"]  # type: ignore[arg-type]


def test_who_falls_silent_is_missed_until_another_takes_the_place(fake: FakeRedis) -> None:
    say(fake, "old", 0, started_ms=NOW_MS - 100_000)
    say(fake, "first", 50_000)
    say(fake, "second", 30_000)
    found = {alarm.about: (alarm.code, alarm.since_ms) for alarm in alarms(fake)}
    assert found == {
        "first": ("replica_silent", NOW_MS - 50_000),
        "second": ("replica_silent", NOW_MS - 30_000),
    }
    say(fake, "new", 0, started_ms=NOW_MS - 20_000)
    assert [alarm.about for alarm in alarms(fake)] == ["second"], "one is in the place of one"
    say(fake, "newer", 0, started_ms=NOW_MS - 10_000)
    assert alarms(fake) == []


def test_a_replica_says_itself_that_it_cannot_read_the_journal(fake: FakeRedis) -> None:
    say(fake, "well", 0, journal_error=None)
    say(fake, "cut off", 0, journal_error="no such directory")
    (alarm,) = alarms(fake)
    assert (alarm.code, alarm.about) == ("journal_unreadable", "cut off")
    assert "no such directory" in alarm.message


def test_a_refused_node_is_shown_while_it_tries(fake: FakeRedis) -> None:
    fake.hset(KEYS.refused, "node-7", pack(["node-7 has code 1", NOW_MS - 1_000]))
    fake.hset(KEYS.refused, "node-8", pack(["long ago", NOW_MS - 1_000 * KEYS.refused_ttl_s]))
    assert alarms(fake) == [Alarm("node_refused", "node-7", "node-7 has code 1")]
