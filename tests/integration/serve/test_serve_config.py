"""The Serve config as Ray itself deploys it, with a Redis user for each role."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from online_draft.launch.ports import free_port
from online_draft.launch.processes import adopt_orphans, descendants, end_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CONFIG = Path(__file__).parents[3] / "deploy" / "serve.yaml"

CHILD = """
import json, sys, time
from online_draft.launch import ray_local

ray_local.start_ray(sys.argv[1], 2, 100)
try:
    import ray
    from ray import serve
    from ray.serve._private.api import serve_start
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(json.loads(sys.stdin.readline()))
    client = serve_start(
        http_options=config.http_options.model_dump(),
        proxy_location="HeadOnly",
        global_logging_config=config.logging_config,
    )
    client.deploy_apps(config)
    actors = lambda: [ray.get_actor(name, namespace=ray_local.NAMESPACE) for name in ("control", "learner")]
    for order in sys.stdin:
        before = actors()
        for actor in before:
            ray.kill(actor)
        ids = {actor._actor_id for actor in before}
        while True:
            try:
                after = actors()
                ray.get([actor.code_version.remote() for actor in after])
                if ids.isdisjoint(actor._actor_id for actor in after):
                    break
            except (ValueError, ray.exceptions.RayError):
                pass
            time.sleep(0.1)
        print("killed and back", flush=True)
    for name in ("online-draft-control", "online-draft"):
        serve.delete(name)
finally:
    ray_local.leave_ray()
"""


@pytest.fixture
def service(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, tiny: Path, guarded_redis: Any
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The endpoint's URL, and the process that kills learner and control when told so."""
    port = free_port()
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    for application in config["applications"]:
        application["args"] = {"host": "127.0.0.1", "threads": 1, "engine": {"kernels": "off"}}
    environment = os.environ | {
        "ONLINE_DRAFT_TARGET": str(tiny),
        "ONLINE_DRAFT_STATE_DIR": str(tmp_path / "state"),
        "ONLINE_DRAFT_ADMIN_KEY": "k",
        "ONLINE_DRAFT_REDIS__URL": guarded_redis.url_of("admin"),
        "ONLINE_DRAFT_REDIS__REPLICA_URL": guarded_redis.url_of("replica"),
        "ONLINE_DRAFT_REDIS__LEARNER_URL": guarded_redis.url_of("learner"),
        "ONLINE_DRAFT_REDIS__CONTROL_URL": guarded_redis.url_of("control"),
    }
    before = set(descendants(os.getpid()))
    adopt_orphans()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path_factory.mktemp("c"))],  # short: for sockets
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(config) + "\n")
        process.stdin.flush()
        yield f"http://127.0.0.1:{port}", process
    finally:
        children = descendants(process.pid)
        _, said = process.communicate(timeout=120)
        end_all([pid for pid in children if pid not in before], 10)
        adopt_orphans(False)
    assert process.returncode == 0, said


def test_a_serve_config_alone_brings_up_all_and_keeps_it_up(
    service: tuple[str, subprocess.Popen[str]], guarded_redis: Any, until: Callable[..., Any]
) -> None:
    url, process = service
    eventually = partial(until, ignoring=(httpx.HTTPError, KeyError, AssertionError))
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        eventually(lambda: http.get("/ready").status_code == 200, 120)

        def actors() -> dict[str, Any]:
            """What control and learner say of themselves, if they do."""
            status = http.get("/admin/api/status", headers={"Authorization": "Bearer k"}).json()
            return {name: status[name] for name in ("control", "learner") if status[name]}

        def metrics() -> dict[str, float]:
            text = http.get("/metrics").text.replace(',model="tiny"', "").replace('{model="tiny"}', "")
            lines = [line for line in text.splitlines() if not line.startswith("#")]
            return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

        eventually(lambda: len(actors()) == 2, 120)
        body = {"model": "tiny", "prompt": "once upon a time", "max_tokens": 8, "ignore_eos": True}
        assert http.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 8
        eventually(lambda: metrics()['online_draft_records_total{fate="stored"}'] == 1, 60)
        eventually(lambda: metrics()["online_draft_committed_tokens_total"] == 8, 60)
        assert metrics()["online_draft_replicas"] == 1

        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("kill\n")
        process.stdin.flush()
        assert process.stdout.readline() == "killed and back\n"
        assert http.get("/ready").status_code == 200
    assert guarded_redis.denied() == []
