"""`/admin/api/drift` over what control said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import httpx
import pytest
import redis

from online_draft.monitor.drift.state import DriftState
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.store import RedisKeys
from online_draft.store.packing import pack

KEYS = RedisKeys("test")
TARGET = "llama-0000000000000000-00000000"
SHIFT = {"before": 0.7, "after": 0.5, "samples_before": 256, "samples_after": 40, "z": -9.5}
STATES = [
    DriftState("chat", False, "unknown", None, None, {}),
    DriftState("sql", True, "stale", 2_000, 1_000, {"champion": SHIFT}),
]


class FakeRedis:
    """One string."""

    def __init__(self) -> None:
        self.strings: dict[str, bytes] = {}
        self.away = False

    def get(self, key: str) -> bytes | None:
        if self.away:
            raise redis.ConnectionError("gone")
        return self.strings.get(key)


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


async def test_every_segment_has_its_alarm_verdict_and_figures(
    admin: httpx.AsyncClient, server: FakeRedis
) -> None:
    assert (await admin.get("/drift")).json() == {"segments": []}
    server.strings[KEYS.drift_states(TARGET)] = pack([1, [asdict(state) for state in STATES]])
    assert (await admin.get("/drift")).json() == {"segments": [asdict(state) for state in STATES]}


async def test_states_that_cant_be_read_are_unavailable(admin: httpx.AsyncClient, server: FakeRedis) -> None:
    server.strings[KEYS.drift_states(TARGET)] = pack([7, []])
    for away in (False, True):
        server.away = away
        reply = await admin.get("/drift")
        assert reply.status_code == 503 and reply.json()["error"]["code"] == "drift_unavailable"


async def test_it_asks_for_the_key(admin: httpx.AsyncClient) -> None:
    admin.headers["Authorization"] = "Bearer wrong"
    assert (await admin.get("/drift")).status_code == 401
