"""The admin API's routes about adapters, over a real journal in a temporary directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from online_draft.errors import RequestError
from online_draft.launch.admin import OnlineAdmin
from online_draft.registry.adapters import AdapterRegistry
from online_draft.registry.manifest import Provenance
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.store import RedisKeys

TARGET = "llama-0000000000000000-00000000"
KEY = "secret-key"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Office:
    """A desk whose champion is "one"; "sql" and "a/b" have an adapter of it, "old" has one of "two"."""

    desk: AdminDesk
    sql: str
    slashed: str
    old: str

    @property
    def adapters(self) -> dict[str, str]:
        return dict(self.desk.state().adapters)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    desk = AdminDesk(str(tmp_path / "store"), TARGET, None, RedisKeys())
    registry = AdapterRegistry(desk.registry.store, TARGET)

    def made(name: str, files: dict[str, bytes]) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        for file, data in files.items():
            (directory / file).write_bytes(data)
        return directory

    for name in ("one", "two"):
        manifest = {"target": TARGET, "kind": "amphista", "sha256": sha256(name.encode())}
        files = {"manifest.json": json.dumps(manifest).encode(), "model.safetensors": name.encode()}
        desk.registry.publish(made(name, files), Provenance(), name=name)

    def adapter(name: str, segment: str, base: str) -> str:
        card = {
            "target": TARGET, "kind": "amphista", "segment": segment,
            "base_digest": sha256(base.encode()), "sha256": sha256(name.encode()),
        }  # fmt: skip
        files = {
            "card.json": json.dumps(card).encode(),
            "adapter_config.json": b"{}",
            "adapter_model.safetensors": name.encode(),
        }
        return registry.publish(made(name, files), base, Provenance(records=7))

    desk.decide("promote", "one", "bootstrap", "first")
    return Office(desk, adapter("s", "sql", "one"), adapter("t", "a/b", "one"), adapter("o", "sql", "two"))


@pytest.fixture
async def admin(office: Office, backend: Any, encoder: PromptEncoder) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(backend, encoder, Model("tiny", TARGET), build_admin_router(office.desk, backend, KEY))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test/admin/api", headers=headers
    ) as client:
        yield client


async def test_adapters_are_loaded_and_dropped_by_id_and_by_segment(
    admin: httpx.AsyncClient, office: Office
) -> None:
    written = (await admin.post(f"/adapters/{office.sql}/load", json={"reason": "better"})).json()
    assert (written["kind"], written["version"], written["actor"], written["reason"]) == (
        "adapter_load", office.sql, "admin", "better",
    )  # fmt: skip
    assert written["numbers"] == {"segment": "sql", "base": "one"}
    await admin.post(f"/adapters/{office.slashed}/load")
    assert office.adapters == {"sql": office.sql, "a/b": office.slashed}
    dropped = (await admin.post("/adapters/a/b/drop")).json()
    assert (dropped["kind"], dropped["version"]) == ("adapter_drop", office.slashed)
    assert (await admin.post(f"/adapters/{office.sql}/drop")).json()["numbers"] == {"segment": "sql"}
    assert office.adapters == {}


async def test_adapters_are_listed_with_segment_base_and_roles(
    admin: httpx.AsyncClient, office: Office, tmp_path: Path
) -> None:
    await admin.post(f"/adapters/{office.sql}/load")
    listed = {entry["adapter"]: entry for entry in (await admin.get("/adapters")).json()["adapters"]}
    assert set(listed) == {office.sql, office.slashed, office.old}
    assert listed[office.sql]["roles"] == ["loaded"] and listed[office.slashed]["roles"] == []
    assert (listed[office.old]["segment"], listed[office.old]["base"]) == ("sql", "two")
    assert listed[office.sql]["provenance"]["records"] == 7
    await admin.post("/drafters/two/promote")
    (tmp_path / "store" / "registry" / TARGET / "adapters" / office.sql / "adapter.json").unlink()
    listed = {entry["adapter"]: entry for entry in (await admin.get("/adapters")).json()["adapters"]}
    assert (
        listed[office.sql]["roles"] == ["waiting", "previous"] and "is not in" in listed[office.sql]["error"]
    )


async def test_what_can_not_be_decided_says_why(
    admin: httpx.AsyncClient, office: Office, tmp_path: Path
) -> None:
    other = await admin.post(f"/adapters/{office.old}/load")
    assert (
        other.status_code == 409 and "belongs to two, but one is champion" in other.json()["error"]["message"]
    )
    assert (await admin.post("/adapters/a0099-00000000/load")).json()["error"]["code"] == "adapter_not_found"
    assert (await admin.post("/adapters/sql/drop")).status_code == 409
    await admin.post(f"/adapters/{office.sql}/load")
    late = await admin.post("/adapters/sql/drop", json={"expected_seq": 1})
    assert (late.status_code, late.json()["error"]["code"]) == (409, "lost_race")
    files = tmp_path / "store" / "registry" / TARGET / "adapters" / office.slashed
    (files / "adapter_model.safetensors").write_bytes(b"x")
    damaged = await admin.post(f"/adapters/{office.slashed}/load")
    assert damaged.status_code == 404 and "corrupt" in damaged.json()["error"]["message"]
    assert office.adapters == {"sql": office.sql}


def test_the_commands_client_reaches_every_route(
    office: Office, backend: Any, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = build_app(backend, encoder, Model("tiny", TARGET), build_admin_router(office.desk, backend, KEY))
    client = OnlineAdmin("http://test", KEY)
    headers = {"Authorization": f"Bearer {KEY}"}
    monkeypatch.setattr(client, "_client", TestClient(app, "http://test/admin/api", headers=headers))
    assert client.load_adapter(office.slashed, "why")["reason"] == "why"
    assert len(client.adapters()) == 3 and office.adapters == {"a/b": office.slashed}
    assert client.drop_adapter("a/b", "why not")["kind"] == "adapter_drop"
    with pytest.raises(RequestError, match="no adapter a/b, nor one of such a segment"):
        client.drop_adapter("a/b", "again")


@pytest.mark.parametrize("path", ["/adapters/x/load", "/adapters/x/drop", "/adapters"])
async def test_they_ask_for_the_key(admin: httpx.AsyncClient, path: str) -> None:
    admin.headers.pop("Authorization")
    response = await (admin.get(path) if path == "/adapters" else admin.post(path))
    assert response.status_code == 401


async def test_a_waiting_adapter_is_dropped_by_its_segment(admin: httpx.AsyncClient, office: Office) -> None:
    await admin.post(f"/adapters/{office.sql}/load")
    await admin.post("/drafters/two/promote")
    assert office.desk.state().waiting_adapters == {"sql": office.sql}
    assert (await admin.post("/adapters/sql/drop")).json()["version"] == office.sql
    assert office.desk.state().adapters_in_use == frozenset()
