"""`/admin/api/target` over a real line in a temporary directory and a backend that says what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from online_draft.registry.target_line import TargetLine, publish_copy
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.store import ArtifactStore, RedisKeys

OLD, NEW = (f"llama-{letter * 16}-{'0' * 8}" for letter in "ab")
KEY = "secret-key"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
async def admin(
    store: ArtifactStore, backend: Any, encoder: PromptEncoder
) -> AsyncIterator[httpx.AsyncClient]:
    desk = AdminDesk(store.root, OLD, None, RedisKeys())
    app = build_app(backend, encoder, Model("tiny", OLD), build_admin_router(desk, backend, KEY))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {KEY}"}
    base_url = "http://test/admin/api"
    async with httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers) as client:
        yield client


def update(store: ArtifactStore, weights: Path) -> dict[str, Any]:
    weights.write_bytes(b"weights")
    publish_copy(store, NEW, [weights], "x")
    return asdict(TargetLine(store, OLD).decide(0, NEW, "admin", "why", {"path": "x", "from": OLD}))


async def test_it_shows_what_was_decided_and_what_is_served(
    admin: httpx.AsyncClient, store: ArtifactStore, backend: Any, tmp_path: Path
) -> None:
    backend.state = {"fingerprint": OLD, "target_update": {"decided": OLD, "changing": False, "trouble": ""}}
    shown = (await admin.get("/target")).json()
    assert (shown["fingerprint"], shown["origin"], shown["serving"]) == (OLD, OLD, OLD)
    assert shown["updates"] == [] and shown["champion"] is None and not shown["unproven"]
    written = update(store, tmp_path / "model.safetensors")
    shown = (await admin.get("/target")).json()
    assert (shown["fingerprint"], shown["origin"], shown["serving"]) == (NEW, OLD, OLD)
    assert shown["updates"] == [written]
    backend.status_error = RuntimeError("no replica")
    shown = (await admin.get("/target")).json()
    assert shown["fingerprint"] == NEW and shown["serving"] is None
    assert shown["update"]["trouble"] == "no replica"


async def test_an_update_is_passed_on_with_who_and_why(
    admin: httpx.AsyncClient, store: ArtifactStore, backend: Any, tmp_path: Path
) -> None:
    backend.update = {"decision": update(store, tmp_path / "model.safetensors")}
    response = await admin.post(
        "/target/update", json={"path": "/shared/7", "reason": "step 7", "drain_s": 5}
    )
    assert response.status_code == 202 and response.json()["version"] == NEW
    assert backend.updates == [("/shared/7", "admin", "step 7", 5.0)]


@pytest.mark.parametrize(
    ("kind", "field", "status", "code"),
    [
        ("ConfigError", "weights.model.norm.weight", 422, "unusable_target"),
        ("LostRaceError", None, 409, "lost_race"),
        ("StoreError", None, 503, "target_unavailable"),
    ],
)
async def test_what_a_replica_refuses_is_told_with_the_field(
    admin: httpx.AsyncClient, backend: Any, kind: str, field: str | None, status: int, code: str
) -> None:
    backend.update = {"refused": "no", "field": field, "kind": kind}
    response = await admin.post("/target/update", json={"path": "/shared/7"})
    error = response.json()["error"]
    assert response.status_code == status
    assert (error["message"], error["param"], error["code"]) == ("no", field, code)


@pytest.mark.parametrize(
    "body", [{}, {"path": ""}, {"path": "x", "drain_s": -1}, {"path": "x", "more": 1}, {"path": 3}]
)
async def test_a_wrong_body_reaches_no_replica(
    admin: httpx.AsyncClient, backend: Any, body: dict[str, Any]
) -> None:
    assert (await admin.post("/target/update", json=body)).status_code in (400, 422)
    assert backend.updates == []


@pytest.mark.parametrize("header", ["", "Bearer wrong"])
async def test_it_asks_for_the_admin_key(admin: httpx.AsyncClient, backend: Any, header: str) -> None:
    headers = {"Authorization": header}
    assert (await admin.get("/target", headers=headers)).status_code == 401
    assert (await admin.post("/target/update", json={"path": "x"}, headers=headers)).status_code == 401
    assert backend.updates == []
