"""The page, its files and its sessions, in process."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from online_draft.errors import StoreError
from online_draft.monitor.drift.samples import DriftSample, Hits
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.drift_counts import DriftCounts
from online_draft.monitor.rollups.traffic_counts import TrafficCounts
from online_draft.serve.access.config import AccessConfig
from online_draft.serve.access.gate import Gate
from online_draft.serve.access.key import digest_of
from online_draft.serve.access.keyring import Keyring
from online_draft.serve.access.limiter import Limiter
from online_draft.serve.admin import drift_history, series_routes
from online_draft.serve.admin.auth import COOKIE, SESSION_S, AdminAuth
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.dashboard.events import Pulse, look
from online_draft.serve.dashboard.files import read_files
from online_draft.store import RedisKeys
from online_draft.store.packing import pack

TARGET = "llama-0000000000000000-00000000"
KEY = "the-admin-key"
MOST_BYTES = 150_000


@pytest.fixture
def desk(tmp_path: Any) -> AdminDesk:
    desk = AdminDesk(str(tmp_path), TARGET, None, RedisKeys())
    desk.decide("pause", None, "admin", "=1+1")
    desk.decide("resume", None, "admin:eve", "go on", numbers={"a": 1})
    return desk


@pytest.fixture
async def page(desk: AdminDesk, backend: Any, encoder: PromptEncoder) -> AsyncIterator[httpx.AsyncClient]:
    """A browser's requests, as far as a service with keys lets them in."""
    entries = ({"name": "eve", "digest": digest_of("s3cret"), "admin": True},)
    gate = Gate(AccessConfig(), Keyring(None, entries, True), Limiter(None, RedisKeys()), KEY)
    admin = build_admin_router(desk, backend, KEY, gate.admin_name, gate.admins)
    app = build_app(backend, encoder, Model("tiny", TARGET), admin, gate=gate)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    await gate.shut_down()


async def sign_in(page: httpx.AsyncClient, key: str = KEY) -> dict[str, str]:
    """Headers of a decision."""
    reply = await page.post("/admin/session", json={"key": key})
    assert reply.status_code == 200
    return {"X-CSRF-Token": reply.json()["csrf"]}


async def test_the_page_runs_its_own_scripts_only(page: httpx.AsyncClient) -> None:
    reply = await page.get("/admin")
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=|javascript:", reply.text)
    for path in re.findall(r'(?:src|href)="([^"]+)"', reply.text):
        assert (await page.get(f"/{path}")).status_code == 200
    assert (await page.get("/admin/")).headers["location"] == "../admin"


async def test_files_are_known_by_name_and_kept_until_they_change(page: httpx.AsyncClient) -> None:
    reply = await page.get("/admin/static/js/main.js")
    assert reply.headers["content-type"].startswith("text/javascript")
    assert "content-security-policy" in reply.headers and reply.headers["content-encoding"] == "gzip"
    plain = await page.get("/admin/static/js/main.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers and plain.content == reply.content
    known = {"If-None-Match": reply.headers["etag"]}
    assert (await page.get("/admin/static/js/main.js", headers=known)).status_code == 304
    for path in ("../routes.py", "%2e%2e/routes.py", "js", "js/nothing.js", "/etc/passwd"):
        assert (await page.get(f"/admin/static/{path}")).status_code == 404


def test_the_page_is_light_and_needs_nobody_else() -> None:
    files = read_files()
    assert sum(len(file.packed) for file in files.values()) <= MOST_BYTES
    for name, file in files.items():
        text = file.data.decode()
        if name.endswith((".txt", ".md")):
            continue
        foreign = set(re.findall(r"""[a-z]+://[^\s"'`)]+""", text)) - {"http://www.w3.org/2000/svg"}
        assert name == "vendor/uplot.js" or not foreign, name  # uPlot's says where it comes from
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
        )
        imports = re.findall(r"""from "([^"]+)";""", text)
        assert all(one.startswith(("./", "../")) for one in imports), name
    assert "vendor/uplot-LICENSE.txt" in files and b"MIT" in files["vendor/uplot-LICENSE.txt"].data


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(page: httpx.AsyncClient) -> None:
    reply = await page.post("/admin/session", json={"key": KEY})
    cookie = reply.headers["set-cookie"]
    for flag in ("HttpOnly", "SameSite=strict", "Path=/admin", f"Max-Age={SESSION_S}"):
        assert flag in cookie
    assert KEY not in cookie and "Secure" not in cookie
    behind_tls = await page.post("/admin/session", json={"key": KEY}, headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in behind_tls.headers["set-cookie"]


async def test_signing_in_takes_a_key_and_json(page: httpx.AsyncClient) -> None:
    assert (await page.get("/admin/session")).status_code == 204
    for key in ("wrong", "sécret", KEY + " "):
        reply = await page.post("/admin/session", json={"key": key})
        assert reply.status_code == 401 and "set-cookie" not in reply.headers
    for body in ({"content": json.dumps({"key": KEY})}, {"data": {"key": KEY}}, {"json": {"key": ""}}):
        assert (await page.post("/admin/session", **body)).status_code == 400  # type: ignore[arg-type]
    assert (await page.get("/admin/api/status")).status_code == 401


async def test_a_session_reads_and_with_its_token_decides(page: httpx.AsyncClient, desk: AdminDesk) -> None:
    headers = await sign_in(page)
    assert (await page.get("/admin/session")).json()["actor"] == "admin"
    assert (await page.get("/admin/api/journal")).status_code == 200
    assert (await page.post("/admin/api/learner/pause", headers=headers)).json()["actor"] == "admin"
    assert (await page.delete("/admin/session")).status_code == 204
    assert COOKIE not in page.cookies
    assert (await page.get("/admin/api/journal")).status_code == 401
    assert desk.state().learner_paused


@pytest.mark.parametrize("token", [None, "", "wrong", "sécret"])
async def test_a_forged_decision_is_refused(
    page: httpx.AsyncClient, desk: AdminDesk, token: str | None
) -> None:
    await sign_in(page)
    before = desk.state()
    headers = {} if token is None else {"X-CSRF-Token": token.encode()}
    for path in ("learner/pause", "rollback", "pin", "drafters/v/promote", "buffer/erase"):
        reply = await page.post(f"/admin/api/{path}", headers=headers, json={})  # type: ignore[arg-type]
        assert reply.status_code in (400, 403)
        assert reply.status_code == 403 or path == "buffer/erase"
    assert desk.state() == before
    other = httpx.AsyncClient(transport=page._transport, base_url="http://test")
    stolen = await sign_in(other)
    assert (await page.post("/admin/api/learner/pause", headers=stolen)).status_code == 403


async def test_a_session_of_a_key_goes_with_the_key(page: httpx.AsyncClient, desk: AdminDesk) -> None:
    headers = await sign_in(page, "s3cret")
    assert (await page.post("/admin/api/learner/pause", headers=headers)).json()["actor"] == "admin:eve"
    names = {digest_of("s3cret"): "eve"}
    auth = AdminAuth(KEY, {"s3cret": "eve"}.get, lambda: names)
    session = auth.sign_in("s3cret")
    assert session is not None and auth.session_of(with_cookie(session.token)) == session
    names.clear()
    assert auth.session_of(with_cookie(session.token)) is None


def test_sessions_end_and_cant_be_made_up() -> None:
    now = [1000.0]
    auth = AdminAuth(KEY, clock=lambda: now[0])
    session = auth.sign_in(KEY)
    assert session is not None and auth.session_of(with_cookie(session.token)) == session
    for token in ("", ".", "...", "1.2.3.4", session.token[:-1], session.token + "0", "9" + session.token):
        assert auth.session_of(with_cookie(token)) is None
    assert AdminAuth("another", clock=lambda: now[0]).session_of(with_cookie(session.token)) is None
    now[0] += SESSION_S
    assert auth.session_of(with_cookie(session.token)) is None


def with_cookie(token: str) -> Any:
    from starlette.requests import Request

    return Request({"type": "http", "headers": [(b"cookie", f"{COOKIE}={token}".encode())]})


async def test_the_journal_is_filtered_and_exported(page: httpx.AsyncClient) -> None:
    await sign_in(page)
    found = (await page.get("/admin/api/journal", params={"kind": ["pause"]})).json()
    assert (found["seq"], found["matched"]) == (2, 1) and found["decisions"][0]["kind"] == "pause"
    by = (await page.get("/admin/api/journal", params={"actor": "admin:eve", "limit": 1})).json()
    assert [one["seq"] for one in by["decisions"]] == [2]
    assert (await page.get("/admin/api/journal", params={"start": 2_000_000_000})).json()["matched"] == 0
    assert (await page.get("/admin/api/journal", params={"kind": "guess"})).status_code == 400
    reply = await page.get("/admin/api/journal", params={"format": "csv"})
    assert reply.headers["content-type"].startswith("text/csv")
    assert "attachment" in reply.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert [row["reason"] for row in rows] == ["'=1+1", "go on"]
    assert rows[1]["numbers"] == '{"a":1}'


async def test_all_that_the_page_asks_stands_in_the_document(page: httpx.AsyncClient) -> None:
    paths = (await page.get("/openapi.json")).json()["paths"]
    asked = (
        "replicas",
        "requests",
        "drift/samples",
        "requests/notable",
        "speculation/counts",
        "learner/history",
    )
    for path in ("events", "journal", *asked):
        assert f"/admin/api/{path}" in paths
        assert (await page.get(f"/admin/api/{path}")).status_code == 401
    assert not {"/admin", "/admin/session"} & set(paths)
    await sign_in(page)
    for path in asked:
        assert (await page.get(f"/admin/api/{path}")).status_code == 503  # no Redis here
    wrong = {"start": 5, "end": 5}
    assert (await page.get("/admin/api/drift/samples", params=wrong)).json()["error"]["param"] == "start"
    many = {"start": 0, "end": 10_000, "resolution": 1}
    assert (await page.get("/admin/api/drift/samples", params=many)).json()["error"]["param"] == "resolution"


async def test_all_listeners_share_a_look(desk: AdminDesk) -> None:
    looks = []

    def count() -> dict[str, Any]:
        looks.append(1)
        return {"looks": 1}

    pulse = Pulse(count, every_s=0.2)

    async def listen() -> list[str]:
        return [event async for event in pulse.follow(lambda: True, life_s=0.3)]

    heard = await asyncio.gather(listen(), listen(), listen())
    assert all(events[1] == 'event: status\ndata: {"looks":1}\n\n' for events in heard)
    assert all(events[2] == "event: same\ndata:\n\n" for events in heard)
    assert 1 < len(looks) <= 3


async def test_a_stream_ends_with_its_session() -> None:
    pulse, left = Pulse(dict, every_s=0.01), [True, True, False]
    events = [event async for event in pulse.follow(lambda: left.pop(0))]
    assert len(events) == 3 and left == []


def test_a_look_says_what_cant_be_read(desk: AdminDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = look(desk)
    assert seen["ladder"]["seq"] == 2 and "offline" in seen["redis_error"] and seen["replicas"] is None

    def gone() -> Any:
        raise StoreError("no disk")

    monkeypatch.setattr(desk, "overview", gone)
    assert look(desk)["journal_error"] == "no disk"


class Rollups:
    """Hashes, as roll-ups are read."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.asked: list[str] = []

    def pipeline(self, transaction: bool) -> Rollups:
        self.asked = []
        return self

    def hgetall(self, key: str) -> None:
        self.asked.append(key)

    def execute(self) -> list[dict[bytes, bytes]]:
        return [self.hashes.get(key, {}) for key in self.asked]


async def test_drift_samples_are_summed_by_bucket(
    page: httpx.AsyncClient, desk: AdminDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = DriftSample("r1", "v1", Hits((3, 1), (4, 4)), Hits((2, 0), (4, 4)), 1_250_000, 2)
    two = DriftSample("r2", "v1", Hits((4,), (4,)), Hits(), 500_000, 1)
    server, keys = Rollups(), RedisKeys()
    board = RollupBoard("learner", lambda: 1000.0)
    for at_s, segment, sample in (
        (500, "sql", one), (100, "sql", one), (160, "sql", two), (110, "sql", two), (110, "python", one),
    ):  # fmt: skip
        board.add(at_s, segment, sample.version, TrafficCounts(drift=DriftCounts.of(sample)))
    board.tokens("chat", 1, True, 0)
    board.fold()
    for name, packed in board.unsaid().items():
        server.hashes[keys.rollup(*name)] = {pack(["learner", "1"]): packed}
    monkeypatch.setattr(desk, "redis_client", lambda: (server, keys))
    for module in (drift_history, series_routes):
        monkeypatch.setattr(module, "_now", lambda: 1000)
    await sign_in(page)
    asked = {"start": 90, "end": 200, "resolution": 58, "segment": "sql"}
    reply = (await page.get("/admin/api/drift/samples", params=asked)).json()
    (series,) = reply["series"]
    assert (series["segment"], reply["resolution"]) == ("sql", 60)
    assert series["buckets"] == {
        "at": [60, 120],
        "samples": [2, 1],
        "hits": [8, 4],
        "tried": [12, 4],
        "hits_squared": [32, 16],
        "hits_tried": [48, 16],
        "tried_squared": [80, 16],
        "baseline_hits": [2, 0],
        "baseline_tried": [8, 0],
        "entropy_micro": [1_750_000, 500_000],
        "positions": [3, 1],
    }
    everything = (await page.get("/admin/api/drift/samples", params={"start": 0, "end": 1001})).json()
    assert [one["segment"] for one in everything["series"]] == ["python", "sql"], "chat has no samples"
    served = (await page.get("/admin/api/series", params={"start": 0, "by": "segment"})).json()["series"]
    assert [one["segment"] for one in served] == ["chat"], "samples are no traffic"


@pytest.mark.parametrize(
    ("resolution", "age_s", "kept_s"),
    [(1, 900, 1), (39, 900, 1), (40, 900, 10), (20, 901, 10), (2160, 86_400, 60), (15_120, 604_800, 3600),
     (60, 10**8, 3600)],
)  # fmt: skip
def test_drift_is_read_from_the_fewest_buckets_that_still_know_it(
    resolution: int, age_s: int, kept_s: int
) -> None:
    assert drift_history._kept_in(resolution, age_s).seconds == kept_s
