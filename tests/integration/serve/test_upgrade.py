"""New code under load: what the code before it wrote is read, everything runs the new one, no request fails.

The code before is a copy of this one with the schema before this one's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import online_draft
from online_draft.core import SCHEMA_VERSION
from online_draft.launch.ports import free_port
from online_draft.launch.processes import adopt_orphans, descendants, end_all
from online_draft.store import RedisKeys, connect_redis
from online_draft.store.packing import unpack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PACKAGE = Path(online_draft.__file__).parent
CONFIG = Path(__file__).parents[3] / "deploy" / "serve.yaml"
KEYS = RedisKeys()
STREAMS = 3
ADMIN = {"Authorization": "Bearer k"}

CHILD = """
import json, sys
from online_draft.launch import ray_local

ray_local.start_ray(sys.argv[1], 2, 100)
try:
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    client = None
    for line in sys.stdin:
        config = ServeDeploySchema.model_validate(json.loads(line))
        if client is None:
            client = serve_start(
                http_options=config.http_options.model_dump(),
                proxy_location="HeadOnly",
                global_logging_config=config.logging_config,
            )
        client.deploy_apps(config)
    for name in ("online-draft-control", "online-draft"):
        serve.delete(name)
finally:
    ray_local.leave_ray()
"""


class System:
    """A Serve config on one node, whose code lies where the test can replace it."""

    def __init__(self, root: Path, process: subprocess.Popen[str], config: dict[str, Any], url: str) -> None:
        self.root = root
        self.url = url
        self._process = process
        self._config = config

    def deploy(self, release: str) -> None:
        """As `serve deploy` does. Another environment has Ray build the applications anew."""
        for application in self._config["applications"]:
            application["runtime_env"] = {"env_vars": {"RELEASE": release}}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._config) + "\n")
        self._process.stdin.flush()

    def install(self, core: str) -> None:
        """Put other code in the old one's place."""
        (self.root / "code" / "online_draft" / "core.py").write_text(core)

    def status(self) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/admin/api/status", headers=ADMIN, timeout=30, trust_env=False)
        status: dict[str, Any] = answer.json()
        return status

    def versions(self) -> list[str]:
        """The code that replica, learner and control run, as far as they say so."""
        status = self.status()
        return [(status[name] or {}).get("code_version", "") for name in ("replica", "learner", "control")]

    def journal(self) -> list[dict[str, Any]]:
        files = sorted((self.root / "state").glob("artifacts/registry/*/decisions/*.json"))
        return [json.loads(file.read_text()) for file in files]


@pytest.fixture
def system(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, tiny: Path, redis_server: Any
) -> Iterator[System]:
    shutil.copytree(PACKAGE, tmp_path / "code" / "online_draft", ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    for application in config["applications"]:
        application["args"] = {
            "host": "127.0.0.1",
            "threads": 1,
            "engine": {"kernels": "off"},
            "learner": {"pace": {"checkpoint_every_s": 1.0}},
        }
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "code"),
        "ONLINE_DRAFT_TARGET": str(tiny),
        "ONLINE_DRAFT_STATE_DIR": str(tmp_path / "state"),
        "ONLINE_DRAFT_ADMIN_KEY": "k",
        "ONLINE_DRAFT_REDIS__URL": redis_server.url,
    }
    before = set(descendants(os.getpid()))
    adopt_orphans()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path_factory.mktemp("c"))],  # short: for sockets
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=environment, cwd=tmp_path, start_new_session=True,
    )  # fmt: skip
    try:
        yield System(tmp_path, process, config, f"http://127.0.0.1:{port}")
    finally:
        children = descendants(process.pid)
        _, said = process.communicate(timeout=120)
        end_all([pid for pid in children if pid not in before], 10)
        adopt_orphans(False)
    assert process.returncode == 0, said


class Load:
    """Clients that ask without pause, every other one streaming, and remember every failure."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.served = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._expected = [self._ask(number, streamed=False) for number in range(STREAMS)]
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(STREAMS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            try:
                text = self._ask(number, streamed=bool(turn % 2))
                assert text == self._expected[number], "another text"
                self.served += 1
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}"[:300])
            self._stop.wait(0.05)

    def _ask(self, number: int, streamed: bool) -> str:
        body = {"model": "tiny", "prompt": f"once upon a time {number}", "max_tokens": 150, "seed": number}
        body |= {"ignore_eos": True, "stream": streamed}
        answer = httpx.post(f"{self._url}/v1/completions", json=body, timeout=120, trust_env=False)
        assert answer.status_code == 200, answer.text
        if not streamed:
            return str(answer.json()["choices"][0]["text"])
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert events[-1] == "[DONE]" and "error" not in events[-2]
        return "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])


def eventually(what: Callable[[], Any], seconds: float, why: Callable[[], object] = lambda: "") -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = what()
        except (httpx.HTTPError, KeyError, ValueError):
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {why()}"
        time.sleep(0.2)


def test_new_code_takes_over_under_load_and_reads_what_the_old_one_wrote(
    system: System, redis_server: Any
) -> None:
    core = (PACKAGE / "core.py").read_text()
    before = re.sub(r"^SCHEMA_VERSION = \d+$", f"SCHEMA_VERSION = {SCHEMA_VERSION - 1}", core, flags=re.M)
    assert before != core
    system.install(before)
    system.deploy("old")
    eventually(lambda: httpx.get(f"{system.url}/ready", trust_env=False).status_code == 200, 120)
    old = eventually(lambda: (found := system.versions()) and all(found) and found, 120)
    assert len(set(old)) == 1

    client = connect_redis(redis_server.url)
    with Load(system.url) as load:
        eventually(lambda: load.served >= 10, 60)
        httpx.post(f"{system.url}/admin/api/learner/pause", headers=ADMIN, trust_env=False).raise_for_status()
        httpx.post(
            f"{system.url}/admin/api/learner/resume", headers=ADMIN, trust_env=False
        ).raise_for_status()
        eventually(lambda: client.xlen(KEYS.records) >= 10, 30)
        system.install(core)
        system.deploy("new")
        eventually(
            lambda: len(new := set(system.versions())) == 1 and new.isdisjoint(old), 180, system.versions
        )
        served = load.served
        eventually(lambda: load.served >= served + 10, 60)
    assert load.failures == []

    kinds = [(entry["schema"], entry["kind"]) for entry in system.journal()]
    assert kinds[:3] == [(SCHEMA_VERSION - 1, kind) for kind in ("promote", "pause", "resume")]
    httpx.post(f"{system.url}/admin/api/learner/pause", headers=ADMIN, trust_env=False).raise_for_status()
    assert (system.journal()[-1]["schema"], system.journal()[-1]["kind"]) == (SCHEMA_VERSION, "pause")
    assert system.status()["replica"]["journal_error"] is None

    def schemas() -> set[object]:
        return {unpack(fields[b"d"], "")[0] for _, fields in client.xrange(KEYS.records)}  # type: ignore[index]

    eventually(lambda: schemas() == {SCHEMA_VERSION - 1, SCHEMA_VERSION}, 30)
    headers = {"headers": ADMIN, "timeout": 30, "trust_env": False}

    def books() -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{system.url}/admin/api/buffer", **headers).json()  # type: ignore[arg-type]
        return found

    def all_read() -> dict[str, Any] | None:
        """Writers tell their books, and the reader what it has read, a moment later."""
        found = books()
        told = found["reader"]["delivered"], found["writers"]["stored"]
        return found if told == (load.served + STREAMS,) * 2 else None

    stats = eventually(all_read, 60, books)
    reader = stats["reader"]
    assert (reader["other_schema"], reader["unreadable"], reader["gaps"]) == (0, 0, 0)
    client.close()
