"""The doctor before a service: a real API in this process, and statuses as it gives them."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from rich.console import Console

from online_draft import __version__
from online_draft.doctor import Finding, service, show
from online_draft.errors import ConfigError

GOOD: dict[str, Any] = {
    "ladder": {"seq": 3, "learner_paused": False},
    "replica": {"replica": "host-1", "drafter_version": "v1", "decided_version": "v1", "unusable": {}},
    "records": {"produced": 5, "stored": 3, "spooled": 1, "dropped": 0, "erased": 1},
    "learner": {"state": "idle"},
    "control": {"alarms": []},
    "alarms": [],
}


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.status for finding in findings}


@pytest.fixture
def url() -> Iterator[str]:
    app = FastAPI()
    app.get("/health")(lambda: {"status": "ok"})
    app.get("/ready")(lambda: JSONResponse({"error": {"message": "the service ends"}}, 503))
    app.get("/version")(lambda: {"version": __version__})
    app.get("/v1/models")(lambda: JSONResponse({"error": {"message": "a key"}}, 401))
    app.get("/admin/api/status")(lambda: GOOD)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_a_service_is_asked_and_its_troubles_have_remedies(url: str) -> None:
    found = list(service.examine(url, "key"))
    told = statuses(found)
    assert told.pop("ready") == "fail" and set(told.values()) == {"ok"}
    assert {"health", "clock", "version", "access", "redis", "journal", "books", "learner"} <= set(told)
    assert next(f for f in found if f.name == "ready").remedy
    without = statuses(list(service.examine(url, None)))
    assert without["admin"] == "warn" and "redis" not in without
    output = io.StringIO()
    assert show(found, Console(file=output, width=200)) == 1 and "the service ends" in output.getvalue()


def test_nobody_there_is_one_finding() -> None:
    (finding,) = service.examine("http://127.0.0.1:9", None)
    assert (finding.status, finding.name) == ("fail", "reachable")
    with pytest.raises(ConfigError, match="--url"):
        list(service.examine("localhost:8000", None))


@pytest.mark.parametrize(
    ("changes", "name", "status"),
    [
        ({"redis_error": "refused"}, "redis", "fail"),
        ({"journal_error": "unreadable"}, "journal", "fail"),
        ({"replica": {"error": "gone"}}, "replica", "fail"),
        ({"replica": {"drafter_version": "v1", "decided_version": "v2"}}, "drafter", "warn"),
        ({"replica": {"unusable": {"v2": "corrupt"}}}, "drafter", "warn"),
        ({"records": {**GOOD["records"], "stored": 2}}, "books", "fail"),
        ({"records": {**GOOD["records"], "produced": 6, "dropped": 1}}, "books", "warn"),
        ({"ladder": {"seq": 3, "learner_paused": True}}, "learner", "warn"),
        ({"learner": None}, "learner", "warn"),
        ({"control": None}, "control", "warn"),
        ({"alarms": [{"code": "drift", "about": "sql", "message": "harder"}]}, "alarms", "warn"),
    ],
)
def test_each_trouble_is_found(changes: dict[str, Any], name: str, status: str) -> None:
    found = {finding.name: finding for finding in service.examine_status({**GOOD, **changes})}
    assert found[name].status == status and found[name].remedy
    assert statuses(list(service.examine_status(GOOD)))[name] == "ok"


def test_clocks_are_compared() -> None:
    now = time.time()
    assert service.check_clock(formatdate(now, usegmt=True), now).status == "ok"
    assert "60 s behind" in service.check_clock(formatdate(now - 60, usegmt=True), now - now % 1).detail
    assert service.check_clock(None, now).status == "warn"
