"""A real Chromium before the page, with made-up data in a real Redis behind it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from online_draft.launch.ports import free_port
from online_draft.redis_server import PrivateRedis
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.admin.routes import build_admin_router
from online_draft.serve.api.errors import install_handlers
from online_draft.store import RedisKeys, connect_redis

from .made_up import TARGET, MadeUp

KEY = "the-admin-key"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class NoBackend:
    """No replica that could be asked."""

    async def status(self) -> dict[str, Any]:
        return {"ready": True}


class Site:
    """The admin API and the page over HTTP; can go away and come back at the same address."""

    def __init__(self, desk: AdminDesk) -> None:
        self.app = FastAPI()
        install_handlers(self.app)
        self.app.include_router(build_admin_router(desk, NoBackend(), KEY))  # type: ignore[arg-type]
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = uvicorn.Config(
            self.app, "127.0.0.1", self.port, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)


@dataclass
class House:
    """Site, data and what a test may change of both."""

    site: Site
    made: MadeUp
    now: int


@pytest.fixture(scope="session")
def chromium() -> str:
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Not for the session: as long as it is there, an event loop runs on the thread of the tests."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def redis_process() -> Iterator[PrivateRedis]:
    with tempfile.TemporaryDirectory(prefix="od-e2e-") as directory, PrivateRedis(directory) as server:
        yield server


@pytest.fixture
def house(redis_process: PrivateRedis, tmp_path: Path) -> Iterator[House]:
    """A house of one's own, to decide and break things in."""
    with _built(redis_process, tmp_path, RedisKeys("own")) as built:
        yield built


@pytest.fixture(scope="module")
def quiet_house(redis_process: PrivateRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One to look at only."""
    with _built(redis_process, tmp_path_factory.mktemp("house"), RedisKeys("quiet")) as built:
        yield built


@contextmanager
def _built(redis_process: PrivateRedis, directory: Path, keys: RedisKeys) -> Iterator[House]:
    client = connect_redis(redis_process.url)
    for key in client.scan_iter(f"{keys.prefix}:*", count=1000):
        client.delete(key)
    desk = AdminDesk(str(directory / "store"), TARGET, redis_process.url, keys)
    now = int(time.time())
    made = MadeUp(client, keys, desk)
    made.decisions(directory / "drafters")
    made.counts(now, span_s=900)
    made.drift(now, 900, fallen="sql")
    made.statuses(now)
    made.details(now)
    made.learner_history(now)
    made.records(now)
    site = Site(desk)
    site.start()
    try:
        yield House(site, made, now)
    finally:
        site.stop()
        client.close()
