"""`buffer stats` and `buffer erase` over HTTP, on a real Redis; and a replica that honours a request."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from online_draft.buffer.erasures import ErasureLog
from online_draft.buffer.writer import RecordWriter
from online_draft.core import GenerationRequest, Interaction, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.monitor.load import Load, publish_load
from online_draft.redis_server import PrivateRedis
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.manifest import Provenance, tenant_mark
from online_draft.serve.admin.buffer_routes import build_buffer_router
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.api.errors import install_handlers
from online_draft.serve.config import ServiceConfig
from online_draft.serve.replica import Replica
from online_draft.store import ArtifactStore, RedisKeys
from online_draft.store.packing import pack

Make = Callable[..., Interaction]
TARGET = "llama-0123456789abcdef-01234567"
KEYS = RedisKeys("test")


@pytest.fixture
async def admin(tmp_path: Path, redis_server: PrivateRedis) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    install_handlers(app)
    app.include_router(
        build_buffer_router(AdminDesk(str(tmp_path / "store"), TARGET, redis_server.url, KEYS))
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def log(redis_server: PrivateRedis, make: Make, count: int = 30) -> None:
    writer = RecordWriter(redis_server.url, KEYS, "replica")
    for index in range(count):
        writer.put(make(index, tenant=("gone", "stays")[index % 2]))
    assert writer.close().stored == count


def say(client: Any, name: str, **status: Any) -> None:
    client.set(KEYS.status(name), pack(status))


async def test_stats_are_integers_that_balance(
    admin: httpx.AsyncClient, redis_server: PrivateRedis, client: Any, make_interaction: Make
) -> None:
    log(redis_server, make_interaction)
    stats = (await admin.get("/buffer")).json()
    writers = stats["writers"]
    assert writers["balanced"] and writers["produced"] == writers["stored"] == 30
    assert (writers["erased"], writers["dropped"], writers["opted_out"]) == (0, 0, 0)
    assert writers["tokens"] == 30 * 13 and isinstance(writers["bytes"], int)
    stream = b"".join(
        part for _id, fields in client.xrange(KEYS.records) for item in fields.items() for part in item
    )
    assert writers["bytes"] == len(stream), "all that a record's entry holds"
    assert stats["reader"] is stats["reservoirs"] is None, "no learner runs"
    assert stats["erasures"] == {"requested": 0, "settled": None}


async def test_erasing_says_who_has_forgotten_and_what_is_open(
    admin: httpx.AsyncClient, redis_server: PrivateRedis, client: Any, make_interaction: Make
) -> None:
    log(redis_server, make_interaction)
    publish_load(client, KEYS, "r1", Load(0, 0, time.time_ns() // 1_000_000))
    say(client, "r1", erasures={"honoured": 0})
    say(client, "learner", erased=0)
    report = (await admin.post("/buffer/erase", json={"tenant": "gone", "wait_s": 0.1})).json()
    assert report["stream"] == {"scanned": 30, "erased": 15, "unreadable": 0}
    assert (report["request"], report["replicas"], report["learner"]) == (1, {"r1": False}, "open")
    assert report["complete"] is False and report["versions"] == []

    say(client, "r1", erasures={"honoured": 2})
    say(client, "learner", erased=2)
    report = (await admin.post("/buffer/erase", json={"tenant": "gone", "wait_s": 5})).json()
    assert report["complete"] is True and report["stream"]["erased"] == 0
    stats = (await admin.get("/buffer")).json()
    assert stats["erasures"]["requested"] == 2


async def test_versions_that_saw_the_tenants_records_are_listed(
    admin: httpx.AsyncClient, redis_server: PrivateRedis, tmp_path: Path
) -> None:
    registry = DrafterRegistry(ArtifactStore(tmp_path / "store"), TARGET)
    for name, tenants in (("clean", ("stays",)), ("taught", ("gone", "stays"))):
        directory = tmp_path / name
        directory.mkdir()
        manifest = {"target": TARGET, "kind": "amphista", "sha256": sha256(name.encode()).hexdigest()}
        (directory / "manifest.json").write_text(json.dumps(manifest))
        (directory / "model.safetensors").write_bytes(name.encode())
        registry.publish(directory, Provenance(tenants=tuple(map(tenant_mark, tenants))), name=name)
    report = (await admin.post("/buffer/erase", json={"tenant": "gone", "wait_s": 0})).json()
    assert (report["versions"], report["adapters"]) == (["taught"], [])


async def test_without_redis_the_request_is_kept_and_told_as_open(
    admin: httpx.AsyncClient, redis_server: PrivateRedis, tmp_path: Path
) -> None:
    redis_server.kill()
    report = (await admin.post("/buffer/erase", json={"tenant": "gone", "wait_s": 0})).json()
    assert report["complete"] is False and "erase records" in report["stream"]["error"]
    assert [request.tenant for request in ErasureLog(ArtifactStore(tmp_path / "store")).read()] == ["gone"]
    assert (await admin.get("/buffer")).status_code == 503


@pytest.mark.parametrize(
    "body", [{}, {"tenant": ""}, {"tenant": "a", "wait": 1}, {"tenant": "a", "wait_s": 99}]
)
async def test_a_wrong_body_is_refused(
    admin: httpx.AsyncClient, body: dict[str, Any], tmp_path: Path
) -> None:
    assert (await admin.post("/buffer/erase", json=body)).status_code in (400, 422)
    assert ErasureLog(ArtifactStore(tmp_path / "store")).last() == 0


async def test_a_replica_forgets_a_tenant_that_is_erased(
    admin: httpx.AsyncClient, tmp_path: Path, tiny: Path, redis_server: PrivateRedis, client: Any
) -> None:
    config = ServiceConfig(
        target=str(tiny), model_name="tiny", store=str(tmp_path / "store"), cache_dir=str(tmp_path / "cache"),
        redis_url=redis_server.url, redis_prefix=KEYS.prefix, admin_key="k", threads=1, poll_interval_s=0.05,
        engine=EngineConfig(max_sequences=4, max_queue=4, kernels="off"),
    )  # fmt: skip
    replica = Replica(config.as_dict())

    async def ask(name: str, tenant: str) -> None:
        sampling = SamplingParams(temperature=1.0, max_tokens=20, seed=int(name), ignore_eos=True)
        request = GenerationRequest(name, tuple(range(10, 30)), sampling, tenant=tenant)
        async for _ in replica.generate(request):
            pass

    def remembered() -> set[str]:
        memory: Any = replica._current._ngrams
        return set(replica._engine.call(lambda _engine: list(memory.memory._tenants)).result())

    try:
        await ask("1", "gone")
        await ask("2", "stays")
        assert remembered() == {"gone", "stays"}
        report = (await admin.post("/buffer/erase", json={"tenant": "gone", "wait_s": 20})).json()
        assert list(report["replicas"].values()) == [True] and report["stream"]["erased"] == 1
        assert report["learner"] == "away"
        assert remembered() == {"stays"}
        await ask("3", "gone")
    finally:
        replica.close()
    left = client.xrange(KEYS.records)
    assert sum(b"e" in fields for _id, fields in left) == 1
    assert sum(b"d" in fields for _id, fields in left) == 2, "what comes later is new"
