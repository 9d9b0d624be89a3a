"""The admin API over a real journal in a temporary directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from online_draft.errors import ConfigError
from online_draft.registry.manifest import Provenance
from online_draft.serve.admin.desk import AdminDesk, alarms_of
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.store import RedisKeys

TARGET = "llama-0000000000000000-00000000"
KEY = "secret-key"


@pytest.fixture
def desk(tmp_path: Path) -> AdminDesk:
    desk = AdminDesk(str(tmp_path / "store"), TARGET, None, RedisKeys())
    for name in ("one", "two", "three"):
        directory = tmp_path / name
        directory.mkdir()
        weights = name.encode()
        manifest = {"target": TARGET, "kind": "amphista", "sha256": hashlib.sha256(weights).hexdigest()}
        (directory / "manifest.json").write_text(json.dumps(manifest))
        (directory / "model.safetensors").write_bytes(weights)
        desk.registry.publish(directory, Provenance(parent="nobody"), name=name)
    desk.decide("promote", "one", "bootstrap", "first")
    return desk


@pytest.fixture
async def admin(desk: AdminDesk, backend: Any, encoder: PromptEncoder) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(backend, encoder, Model("tiny", TARGET), build_admin_router(desk, backend, KEY))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test/admin/api", headers=headers
    ) as client:
        yield client


@pytest.mark.parametrize("header", [None, "", "Bearer wrong", "Bearer ", "Bearer sécret"])
async def test_every_route_asks_for_the_key(admin: httpx.AsyncClient, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode()}
    admin.headers.pop("Authorization")
    for method, path in (
        ("GET", "/status"),
        ("GET", "/drafters"),
        ("POST", "/rollback"),
        ("POST", "/learner/pause"),
    ):
        response = await admin.request(method, path, headers=headers)  # type: ignore[arg-type]
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_admin_key"


def test_an_empty_key_is_refused(desk: AdminDesk, backend: Any) -> None:
    with pytest.raises(ConfigError, match="admin_key"):
        build_admin_router(desk, backend, "")


async def test_status_shows_ladder_decisions_and_replica(admin: httpx.AsyncClient, backend: Any) -> None:
    status = (await admin.get("/status")).json()
    assert status["ladder"]["champion"] == "one" and status["ladder"]["seq"] == 1
    assert status["decisions"][0]["actor"] == "bootstrap"
    assert status["replica"] == {"ready": True}
    backend.status_error = RuntimeError("gone")
    assert (await admin.get("/status")).json()["replica"]["ready"] is False


async def test_promote_roll_back_pin_and_reject(admin: httpx.AsyncClient, desk: AdminDesk) -> None:
    written = (await admin.post("/drafters/two/promote", json={"reason": "better"})).json()
    assert (written["kind"], written["version"], written["actor"], written["reason"]) == (
        "promote", "two", "admin", "better",
    )  # fmt: skip
    assert (await admin.post("/rollback")).json()["version"] == "one"
    assert (await admin.post("/pin")).json()["version"] == "one"
    refused = await admin.post("/drafters/two/promote")
    assert refused.status_code == 409 and "pinned" in refused.json()["error"]["message"]
    assert (await admin.post("/unpin")).status_code == 200


async def test_speculation_is_switched_and_the_journal_remembers(
    admin: httpx.AsyncClient, desk: AdminDesk
) -> None:
    assert (await admin.get("/speculation")).json() == {"mode": "auto"}
    written = (await admin.post("/speculation", json={"mode": "off", "reason": "a test"})).json()
    assert (written["kind"], written["version"], written["reason"]) == ("speculation_off", None, "a test")
    assert (await admin.get("/speculation")).json() == {"mode": "off"} and desk.state().speculation_off
    again = await admin.post("/speculation", json={"mode": "off"})
    assert again.status_code == 409 and "off already" in again.json()["error"]["message"]
    assert (await admin.post("/speculation", json={"mode": "most"})).status_code == 400
    assert (await admin.post("/speculation", json={"mode": "auto"})).status_code == 200
    assert not desk.state().speculation_off
    assert (await admin.post("/drafters/three/reject")).json()["kind"] == "refuse"
    assert desk.state().champion == "one" and desk.state().refused == 1


async def test_the_journal_says_which_admin_decided(
    desk: AdminDesk, backend: Any, encoder: PromptEncoder
) -> None:
    names = {"s3cret": "eve"}
    app = build_app(
        backend, encoder, Model("tiny", TARGET), build_admin_router(desk, backend, KEY, names.get)
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/admin/api") as client:
        for secret, actor in (("s3cret", "admin:eve"), (KEY, "admin")):
            headers = {"Authorization": f"Bearer {secret}"}
            assert (await client.post("/drafters/two/promote", headers=headers)).json()["actor"] == actor
            await client.post("/rollback", headers=headers)
        assert (await client.post("/pin", headers={"Authorization": "Bearer other"})).status_code == 401


async def test_learner_pauses_and_resumes(admin: httpx.AsyncClient, desk: AdminDesk) -> None:
    assert (await admin.post("/learner/pause")).status_code == 200
    assert desk.state().learner_paused
    assert (await admin.post("/learner/pause")).status_code == 409
    assert (await admin.post("/learner/resume")).status_code == 200


async def test_a_decision_on_an_outdated_state_is_409(admin: httpx.AsyncClient) -> None:
    await admin.post("/drafters/two/promote")
    response = await admin.post("/drafters/three/promote", json={"expected_seq": 1})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "lost_race")


async def test_unknown_versions_and_bodies_are_refused(admin: httpx.AsyncClient) -> None:
    assert (await admin.post("/drafters/nobody/promote")).status_code == 404
    assert (await admin.get("/drafters/nobody")).status_code == 404
    assert (await admin.post("/rollback")).status_code == 409
    response = await admin.post("/drafters/two/promote", json={"reazon": "?"})
    assert response.status_code == 400 and response.json()["error"]["param"] == "reazon"


async def test_drafters_are_listed_with_their_roles(admin: httpx.AsyncClient) -> None:
    listed = (await admin.get("/drafters")).json()["drafters"]
    assert {entry["version"] for entry in listed} == {"one", "two", "three"}
    one = next(entry for entry in listed if entry["version"] == "one")
    assert one["roles"] == ["champion", "baseline"] and one["provenance"]["parent"] == "nobody"
    shown = (await admin.get("/drafters/one")).json()
    assert shown["decisions"][0]["kind"] == "promote"


async def test_drafters_are_listed_with_the_shares_of_a_canary_and_of_a_watch(
    admin: httpx.AsyncClient, desk: AdminDesk
) -> None:
    async def shares() -> dict[str, tuple[float, list[str]]]:
        listed = (await admin.get("/drafters")).json()["drafters"]
        return {entry["version"]: (entry["share"], entry["roles"]) for entry in listed}

    desk.decide("propose", "two", "learner", "gate")
    desk.decide("canary", "two", "control", "gate", numbers={"share": 0.25})
    assert await shares() == {
        "one": (0.75, ["champion", "baseline"]), "two": (0.25, ["canary"]), "three": (0.0, []),
    }  # fmt: skip
    desk.decide("promote", "two", "control", "held", numbers={"control_share": 0.1})
    assert await shares() == {
        "one": (0.1, ["previous", "baseline"]), "two": (0.9, ["champion"]), "three": (0.0, []),
    }  # fmt: skip
    ladder = (await admin.get("/status")).json()["ladder"]
    assert (ladder["arms"]["role"], ladder["arms"]["second"], ladder["arms"]["seq"]) == ("control", "one", 4)
    assert (await admin.post("/pin")).status_code == 200
    assert (await shares())["two"] == (1.0, ["champion", "pinned"])


async def test_a_canary_is_rejected_or_promoted_by_hand(admin: httpx.AsyncClient, desk: AdminDesk) -> None:
    for path, champion in (("reject", "one"), ("promote", "two")):
        desk.decide("propose", "two", "learner", "gate")
        desk.decide("canary", "two", "control", "gate")
        assert (await admin.post(f"/drafters/two/{path}")).status_code == 200
        assert (desk.state().champion, desk.state().canary, desk.state().arms) == (champion, None, None)


def test_a_silent_control_is_an_alarm_itself() -> None:
    assert [alarm["code"] for alarm in alarms_of(None)] == ["control_silent"]
    alarm = {"code": "stale_version", "about": "r1", "message": "…", "since_ms": 1}
    assert alarms_of({"alarms": [alarm]}) == [alarm] and alarms_of({}) == []


async def test_a_torn_journal_is_503_and_still_shows_the_replica(
    admin: httpx.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "store" / "registry" / TARGET / "decisions" / "00000002.json").write_text("{")
    assert (await admin.post("/drafters/two/promote")).status_code == 503
    status = (await admin.get("/status")).json()
    assert "00000002" in status["journal_error"] and status["replica"]["ready"]
