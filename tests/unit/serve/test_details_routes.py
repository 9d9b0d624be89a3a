"""What replicas tell beside their status, and the learner's history, over the admin API."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import redis

from online_draft.monitor.learner_history import LearnerHistory
from online_draft.monitor.recent import RECENT_S, RecentRequest, RecentRequests
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.details import Details
from online_draft.store import RedisKeys
from online_draft.store.packing import pack

KEYS = RedisKeys("test")
TARGET = "llama-0000000000000000-00000000"
TENTHS = {"nodes": [0] * 9 + [4], "promised_micro": [0] * 9 + [3_800_000], "accepted": [0] * 9 + [3]}


class FakeRedis:
    """Strings, one hash and streams whose entry ids a writer gives."""

    def __init__(self) -> None:
        self.strings: dict[str, bytes] = {}
        self.load: dict[bytes, bytes] = {}
        self.streams: dict[str, list[tuple[bytes, Any]]] = {}
        self.away = False

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        if self.away:
            raise redis.ConnectionError("gone")
        return self.load

    def get(self, key: str) -> bytes | None:
        return self.strings.get(key)

    def xadd(self, key: str, fields: Any, id: str, maxlen: int, approximate: bool) -> None:
        stream = self.streams.setdefault(key, [])
        if stream and _ms(stream[-1][0]) >= _ms(id.encode()):
            raise redis.ResponseError("The ID specified in XADD is equal or smaller than the target")
        stream.append((id.encode(), {name.encode(): value for name, value in fields.items()}))

    def xrange(self, key: str, min: int, max: int) -> list[tuple[bytes, Any]]:
        if self.away:
            raise redis.ConnectionError("gone")
        return [entry for entry in self.streams.get(key, []) if min <= _ms(entry[0]) <= max]


def _ms(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])


@pytest.fixture
def server() -> FakeRedis:
    return FakeRedis()


@pytest.fixture
async def admin(
    server: FakeRedis, tmp_path: Any, backend: Any, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    desk = AdminDesk(str(tmp_path), TARGET, None, KEYS)
    monkeypatch.setattr(desk, "redis_client", lambda: (server, KEYS))
    app = build_app(backend, encoder, Model("tiny", TARGET), build_admin_router(desk, backend, "key"))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test/admin/api", headers={"Authorization": "Bearer key"}
    ) as client:
        yield client


def request(name: str, segment: str, total_us: int, tokens: int) -> RecentRequest:
    return RecentRequest(name, "acme", segment, "v1", time.time_ns() // 10**6, 9, tokens, 5, 100, total_us)


def tell(server: FakeRedis, replica: str, *requests: RecentRequest, **counts: Any) -> None:
    """As a replica does it."""
    recent = RecentRequests()
    for one in requests:
        recent.add(one)
    given = {"version": "v1", "spent_us": 0, "plain_us": 0, "sources": {"heads": TENTHS}, **counts}
    server.load[replica.encode()] = pack([0, 0, time.time_ns() // 1_000_000])
    server.strings[KEYS.details(replica)] = pack(Details(recent, lambda: given)())


async def test_notable_requests_are_those_of_all_replicas(
    admin: httpx.AsyncClient, server: FakeRedis
) -> None:
    assert (await admin.get("/requests/notable")).json() == {
        "seconds": 900, "slowest": [], "least_accepted": [],
    }  # fmt: skip
    tell(server, "r1", request("a", "sql", 50, 10), request("b", "chat", 10, 5))
    tell(server, "r2", request("c", "sql", 30, 20))
    found = (await admin.get("/requests/notable")).json()
    assert [(one["request"], one["replica"]) for one in found["slowest"]] == [
        ("a", "r1"), ("c", "r2"), ("b", "r1"),
    ]  # fmt: skip
    assert [one["request"] for one in found["least_accepted"]] == ["b", "a", "c"]
    of = {"segment": "sql", "replica": "r1"}
    (only,) = (await admin.get("/requests/notable", params=of)).json()["slowest"]
    assert (only["request"], only["tokens"], only["total_us"]) == ("a", 10, 50)


async def test_counts_of_speculation_are_each_replicas(admin: httpx.AsyncClient, server: FakeRedis) -> None:
    tell(server, "r1")
    tell(server, "gone")
    server.load[b"gone"] = pack([0, 0, 1_000])
    (one,) = (await admin.get("/speculation/counts")).json()["replicas"]
    assert one == {
        "replica": "r1", "version": "v1", "seconds": 0, "spent_us": 0, "plain_us": 0,
        "sources": {"heads": TENTHS},
    }  # fmt: skip
    assert (await admin.get("/speculation/counts", params={"replica": "r9"})).json() == {"replicas": []}


def test_times_are_of_the_last_quarter_of_an_hour() -> None:
    now, counts = [0.0], {"version": None, "spent_us": 0, "plain_us": 0, "sources": {}}
    details = Details(RecentRequests(), lambda: counts, lambda: now[0])

    def told() -> tuple[int, int, int]:
        found = details()
        return found["spent_us"], found["plain_us"], found["seconds"]

    assert told() == (0, 0, 0)
    for _ in range(200):
        now[0] += 10
        counts["spent_us"] += 3
        counts["plain_us"] += 6
        spent, plain, seconds = told()
        assert seconds <= RECENT_S and (spent, plain) == (3 * seconds / 10, 6 * seconds / 10)
    assert seconds == RECENT_S
    counts.update(spent_us=1, plain_us=1)  # another policy
    assert told() == (0, 0, 0)


async def test_the_learners_history_comes_in_the_resolution_that_is_kept(
    admin: httpx.AsyncClient, server: FakeRedis
) -> None:
    now = int(time.time())
    look = {"tau_candidate": 2.5, "tau_champion": None}
    for since in (1300, 700, 21, 11, 1):
        status = {
            "state": "training",
            "state_ms": {"training": 5},
            "steps": since,
            "loss": 1.5,
            "last_look": look,
        }
        LearnerHistory(server, KEYS).note(status, now - since)  # type: ignore[arg-type]
        LearnerHistory(server, KEYS).note(status, now - since)  # type: ignore[arg-type]
    fine = (await admin.get("/learner/history", params={"start": now - 60})).json()
    assert fine["resolution"] == 10 and [one["steps"] for one in fine["readings"]] == [21, 11, 1]
    assert fine["readings"][0] == {
        "at": now - 21, "state": "training", "state_ms": {"training": 5}, "steps": 21, "tokens": 0,
        "looks": 0, "loss": 1.5, "tau_candidate": 2.5, "tau_champion": None,
    }  # fmt: skip
    month = (await admin.get("/learner/history", params={"start": now - 30 * 86_400})).json()
    assert month["resolution"] == 600 and [one["steps"] for one in month["readings"]][:2] == [1300, 700]
    assert (await admin.get("/learner/history", params={"start": now, "end": now})).status_code == 400
    wrong = await admin.get("/learner/history", params={"resolution": 60})
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "resolution"


async def test_without_redis_all_are_unavailable_and_without_a_key_unseen(
    admin: httpx.AsyncClient, server: FakeRedis
) -> None:
    server.away = True
    for path in ("/requests/notable", "/speculation/counts", "/learner/history"):
        reply = await admin.get(path)
        assert reply.status_code == 503 and reply.headers["Retry-After"] == "1"
        assert (await admin.get(path, headers={"Authorization": "Bearer wrong"})).status_code == 401
