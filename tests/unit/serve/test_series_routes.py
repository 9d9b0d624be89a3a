"""`/admin/api/series` over counts in a fake Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from online_draft.core import SpeculationCounts
from online_draft.errors import StoreError
from online_draft.monitor.rollups.histogram import BOUNDS_US
from online_draft.monitor.rollups.traffic_counts import LIVE, TrafficCounts
from online_draft.monitor.rollups.traffic_rows import pack_rows, to_row
from online_draft.serve.admin import series_routes
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.store import RedisKeys
from online_draft.store.packing import pack

KEYS = RedisKeys("test")
NOW = 1_800_000_000
TARGET = "llama-0000000000000000-00000000"
DONE = TrafficCounts(2, 14, 0, SpeculationCounts(4, 10, 32, [4, 2], [3, 1], 6, [0, 1]))


class FakeRedis:
    """Hashes, read through a pipeline."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.asked: list[str] = []

    def pipeline(self, transaction: bool) -> FakeRedis:
        self.asked = []
        return self

    def hgetall(self, key: str) -> None:
        self.asked.append(key)

    def execute(self) -> list[dict[bytes, bytes]]:
        return [self.hashes.get(key, {}) for key in self.asked]


@pytest.fixture
def counts() -> FakeRedis:
    fake = FakeRedis()
    for replica in ("one", "two"):
        cells = {("sql", "v1"): DONE, ("sql", LIVE): TrafficCounts(tokens=9, errors={"failed": 1})}
        for seconds, start in ((1, NOW - 3), (10, NOW - 20), (3600, NOW - 7200)):
            hashed = fake.hashes.setdefault(KEYS.rollup(seconds, start), {})
            hashed[pack([replica, "0"])] = pack_rows({cell: to_row(one) for cell, one in cells.items()})
    return fake


@pytest.fixture
async def admin(
    counts: FakeRedis, tmp_path: Any, backend: Any, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    desk = AdminDesk(str(tmp_path), TARGET, None, KEYS)
    monkeypatch.setattr(desk, "redis_client", lambda: (counts, KEYS))
    monkeypatch.setattr(series_routes, "_now", lambda: NOW)
    app = build_app(backend, encoder, Model("tiny", TARGET), build_admin_router(desk, backend, "key"))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test/admin/api", headers={"Authorization": "Bearer key"}
    ) as client:
        yield client


async def test_the_last_quarter_of_an_hour_comes_in_seconds(admin: httpx.AsyncClient) -> None:
    reply = (await admin.get("/series")).json()
    assert (reply["start"], reply["end"], reply["resolution"]) == (NOW - 899, NOW + 1, 1)
    assert reply["latency_bounds_us"] == list(BOUNDS_US)
    (series,) = reply["series"]
    assert (series["segment"], series["version"], series["replica"]) == (None, None, None)
    assert series["buckets"] == {
        "at": [NOW - 3],
        "requests": [4],
        "prompt_tokens": [28],
        "tokens": [18],
        "steps": [8],
        "committed": [20],
        "drafted": [64],
        "ngram_drafted": [12],
        "tried": [[8, 4]],
        "accepted": [[6, 2]],
        "ngram_accepted": [[0, 2]],
        "first_token": [[]],
        "inter_token": [[]],
        "errors": [{"failed": 2}],
    }


async def test_counts_can_be_grouped_and_filtered(admin: httpx.AsyncClient) -> None:
    reply = await admin.get("/series", params={"by": ["version", "replica"], "replica": "one"})
    groups = [(one["segment"], one["version"], one["replica"]) for one in reply.json()["series"]]
    assert groups == [(None, LIVE, "one"), (None, "v1", "one")]
    assert (await admin.get("/series", params={"segment": "python"})).json()["series"] == []
    versions = (await admin.get("/series", params={"version": "v1"})).json()["series"]
    assert versions[0]["buckets"]["errors"] == [{}]


@pytest.mark.parametrize(
    ("span", "resolution"), [(3600, 10), (86_400, 60), (7 * 86_400, 600), (30 * 86_400, 3600)]
)
async def test_longer_ranges_come_in_coarser_buckets(
    admin: httpx.AsyncClient, span: int, resolution: int
) -> None:
    reply = (await admin.get("/series", params={"start": NOW - span, "end": NOW})).json()
    assert reply["resolution"] == resolution


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"start": NOW, "end": NOW}, "start"),
        ({"resolution": 7}, "resolution"),
        ({"start": NOW - 86_400, "resolution": 1}, "resolution"),
        ({"by": "tenant"}, "by"),
        ({"start": "yesterday"}, "start"),
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(
    admin: httpx.AsyncClient, params: dict[str, Any], field: str
) -> None:
    reply = await admin.get("/series", params=params)
    assert reply.status_code == 400
    assert field in reply.json()["error"]["param"]


async def test_without_redis_it_says_so(admin: httpx.AsyncClient, counts: FakeRedis) -> None:
    def fail() -> Any:
        raise StoreError("gone")

    counts.execute = fail  # type: ignore[method-assign]
    reply = await admin.get("/series")
    assert reply.status_code == 503 and reply.json()["error"]["code"] == "counts_unavailable"


async def test_it_asks_for_the_key_and_stands_in_the_document(admin: httpx.AsyncClient) -> None:
    document = (await admin.get("http://test/openapi.json")).json()
    operation = document["paths"]["/admin/api/series"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/SeriesReply"}
    admin.headers["Authorization"] = "Bearer wrong"
    assert (await admin.get("/series")).status_code == 401
