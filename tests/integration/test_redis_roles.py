"""What a Redis user for each role can do, by the classes that do it, and what no user can."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from online_draft.buffer.books import read_books
from online_draft.buffer.reader import RecordReader
from online_draft.buffer.sweeping import sweep
from online_draft.buffer.writer import RecordWriter, WriterConfig
from online_draft.control.config import ControlConfig
from online_draft.control.memory import Memory
from online_draft.control.vitals import Vitals
from online_draft.core import Interaction, SpeculationCounts
from online_draft.errors import LaunchError
from online_draft.launch.ports import free_port
from online_draft.learner.idle.bell import BusyBell
from online_draft.monitor.arms import ArmsBoard, read_arms
from online_draft.monitor.counts import CountsBoard, read_counts
from online_draft.monitor.drift.samples import (
    DriftSample,
    Hits,
    publish_drift_samples,
    read_drift_samples,
    read_drift_segments,
    read_replayed,
)
from online_draft.monitor.drift.state import DriftState, publish_drift_states, read_drift_states
from online_draft.monitor.learner_history import read_learner_history
from online_draft.monitor.load import Load, publish_load, read_loads
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.publisher import RollupPublisher
from online_draft.monitor.rollups.reader import read_rollup
from online_draft.monitor.rollups.traffic_counts import TrafficCounts
from online_draft.redis_server import PrivateRedis
from online_draft.registry.journal import Decision
from online_draft.registry.wakeups import publish_wakeup, wait_for_wakeup
from online_draft.serve.access.bucket import Demand
from online_draft.serve.access.limiter import Limiter
from online_draft.store import RedisKeys, connect_redis
from online_draft.store.connection import connect_async_redis
from online_draft.store.packing import pack

TARGET = "llama-0123456789abcdef-01234567"
Until = Callable[..., object]


@pytest.fixture(params=["", "sql%2Fcoder"], ids=["first-model", "further-model"])
def keys(request: pytest.FixtureRequest) -> RedisKeys:
    return RedisKeys(realm=request.param)


@pytest.fixture
def clients(guarded_redis: Any) -> Iterator[dict[str, redis.Redis]]:
    superior = connect_redis(guarded_redis.url)
    superior.flushall()
    superior.close()
    opened = {
        role: connect_redis(guarded_redis.url_of(role)) for role in ("replica", "learner", "control", "admin")
    }
    yield opened
    for client in opened.values():
        client.close()
    guarded_redis.denied()


def test_each_role_can_do_its_work(
    guarded_redis: Any,
    clients: dict[str, redis.Redis],
    keys: RedisKeys,
    make_interaction: Callable[..., Interaction],
    until: Until,
) -> None:
    replica, learner, control, admin = (clients[role] for role in ("replica", "learner", "control", "admin"))
    now_ms = time.time_ns() // 1_000_000
    bell = BusyBell(guarded_redis.url_of("learner"), keys)
    bell.start()
    until(bell.listening.is_set)

    counts, arms = CountsBoard(keys, "replica"), ArmsBoard(keys, "replica")
    arms.begin("v1-v2-7")
    done = SpeculationCounts(2, 5, 4, [2], [1])
    counts.add("sql", "v1", done)
    arms.add("sql", "v1", done, time.monotonic())

    def publish(pipeline: Any, everything: bool) -> None:
        counts.publish(pipeline, everything)
        arms.publish(pipeline, everything)

    config = WriterConfig(publish_every_s=0.02)
    writer = RecordWriter(guarded_redis.url_of("replica"), keys, "replica", config, publish)
    for index in range(3):
        assert writer.put(make_interaction(index, target=TARGET, tenant=f"tenant-{index}"))
    publish_load(replica, keys, "replica", Load(1, 0, now_ms))
    board = RollupBoard("replica")
    board.add(now_ms // 1000, "sql", "v1", TrafficCounts(requests=1))
    RollupPublisher(connect_redis(guarded_redis.url_of("replica")), keys, board).publish()

    until(lambda: read_books(admin, keys)[writer.writer_id].stored == 3, ignoring=KeyError)
    assert read_counts(admin, keys)["sql"]["v1"].requests == 1
    assert read_rollup(admin, keys, now_ms // 1000 - 9, now_ms // 1000 + 9, 1)
    assert sweep(admin, keys, "tenant-2").erased == 1

    reader = RecordReader(guarded_redis.url_of("learner"), keys, TARGET)
    records = reader.read(10, 1000)
    reader.ack([entry for entry, _ in records])
    assert (len(records), reader.lag()) == (2, 0)
    assert list(read_loads(learner, keys, now_ms)) == ["replica"]
    until(bell.rung)
    sample = DriftSample("1-1", "v1", Hits((1,), (2,)))
    publish_drift_samples(learner, keys, TARGET, "sql", [sample])
    assert read_replayed(learner, keys, TARGET, 9) == {("1-1", "v1")}
    replays = RollupBoard("learner")
    replays.replayed("sql", sample)
    RollupPublisher(connect_redis(guarded_redis.url_of("learner")), keys, replays).publish()
    seconds = read_rollup(admin, keys, now_ms // 1000 - 9, now_ms // 1000 + 99, 1)[()].values()
    assert [second.drift.tried for second in seconds if second.drift.samples] == [[2]]
    publish_wakeup(learner, keys, Decision(1, "propose", "v2", "learner", "better"))

    assert read_arms(control, keys, "v1-v2-7")["v1"]
    assert read_drift_segments(control, keys, TARGET) == ["sql"]
    assert read_drift_samples(control, keys, TARGET, "sql", "")[0][1] == sample
    publish_drift_states(control, keys, TARGET, [DriftState("sql", True, "stale", 1, 1, {})])
    learner.set(keys.status("learner"), pack({"state": "training", "steps": 1}))
    Vitals(control, keys, ControlConfig()).tick(now_ms)
    assert len(read_learner_history(admin, keys, 0, now_ms, 10)) == 1
    memory = Memory(control, keys, "webhooks")
    memory.keep({"raised": []})
    assert memory.recall()["raised"] == []
    replica.set(keys.details("replica"), b"1", ex=9)
    assert admin.get(keys.details("replica")) == b"1"
    for client in (control, learner, admin):
        assert read_drift_states(client, keys, TARGET)["sql"].alarm
    publish_wakeup(control, keys, Decision(2, "promote", "v2", "control", "better"))
    assert wait_for_wakeup(replica, keys, "0") is not None

    reader.close()
    bell.close()
    writer.close()
    assert guarded_redis.denied() == []


async def test_ingresses_can_keep_limits(guarded_redis: Any, clients: dict[str, redis.Redis]) -> None:
    limiter = Limiter(guarded_redis.url_of("admin"), RedisKeys(), "one")
    await limiter.start()
    assert (await limiter.take([Demand("alice", "requests", 60, 60, 1)])).met
    lease = await limiter.open_stream("alice", 1)
    assert lease is not None and await limiter.open_stream("alice", 1) is None
    await limiter.close_stream(lease)
    assert limiter.shared
    await limiter.close()
    assert guarded_redis.denied() == []


FORBIDDEN = [
    *((role, command) for role in ("replica", "learner", "control", "admin") for command in (
        "flushall", "config get *", "keys *", "scan 0", "acl list", "monitor", "set od:other 1",
        "get elsewhere", "hset od:rollups a 1", "shutdown",
    )),
    ("replica", "xrange od:records - +"),
    ("replica", "xreadgroup group learner me streams od:records >"),
    ("replica", "hgetall od:books"),
    ("replica", "xack od:records learner 1-1"),
    ("replica", "eval return{} 0"),
    ("learner", "publish od:busy me"),
    ("learner", "set od:limit:alice 1"),
    ("control", "xrange od:records - +"),
    ("control", "xadd od:records * d 1"),
    ("control", "hset od:load r 1"),
    ("control", "get od:limit:alice"),
    ("admin", "xreadgroup group learner me streams od:records >"),
    ("admin", "hset od:counts a 1"),
    ("admin", "script flush"),
    ("admin", "eval return(redis.call('hset','od:limit:a','b',1)) 1 od:limit:a"),
]  # fmt: skip
"""Of every server; the rest needs Redis 7, which keeps grants apart."""

FORBIDDEN_APART = [
    ("replica", "xread streams od:records 0"),
    ("replica", "hset od:rollup-epoch a 1"),
    ("learner", "hset od:books w 1"),
    ("learner", "hgetall od:rollup:1:1"),
    ("learner", "xrange od:drift:t:sql - +"),
    ("learner", "xreadgroup group learner me streams od:decisions >"),
    ("control", "set od:arms:v1 1"),
    ("admin", "del od:records"),
    ("admin", "set od:status:control 1"),
    ("admin", "eval return(redis.call('del','od:records')) 1 od:limit:a"),
]


def test_no_role_can_do_more(guarded_redis: Any, clients: dict[str, redis.Redis]) -> None:
    allowed = []
    for role, command in FORBIDDEN + (FORBIDDEN_APART if guarded_redis.selectors else []):
        try:
            clients[role].execute_command(*command.split(" "))
            allowed.append((role, command))
        except redis.exceptions.NoPermissionError:
            continue
        except redis.ResponseError as error:
            if "The user executing the script can't" not in str(error):
                allowed.append((role, f"{command}: {error}"))
    assert allowed == []


def test_nobody_comes_in_without_a_password(guarded_redis: Any) -> None:
    path = guarded_redis.url.partition("@")[2]
    for url in (f"unix://{path}", f"unix://replica:pass-of-admin@{path}"):
        client = connect_redis(url)
        with pytest.raises(redis.AuthenticationError):
            client.ping()
        client.close()


@pytest.fixture
def tls_redis(guarded_redis: Any, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of a server that speaks TLS alone, and its certificate. Not every build can."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine")
    cert, key, port = tmp_path / "cert.pem", tmp_path / "key.pem", free_port()
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip

    class TlsRedis(type(guarded_redis)):  # type: ignore[misc]
        def _config(self) -> str:
            files = f'tls-cert-file "{cert}"\ntls-key-file "{key}"\ntls-ca-cert-file "{cert}"\n'
            return f"{super()._config()}tls-port {port}\n{files}tls-auth-clients no\n"

    with tempfile.TemporaryDirectory(prefix="od-redis-") as directory:
        server = TlsRedis(directory)
        try:
            server.start()
        except LaunchError:
            pytest.skip("this redis-server was built without TLS")
        yield port, cert
        server.stop()


async def test_a_role_comes_in_over_tls(tls_redis: tuple[int, Path]) -> None:
    port, cert = tls_redis
    url = f"rediss://replica:pass-of-replica@localhost:{port}/0"
    trusting = connect_redis(f"{url}?ssl_ca_certs={cert}")
    assert trusting.ping()
    trusting.close()
    waiting = connect_async_redis(f"{url}?ssl_ca_certs={cert}")
    assert await cast(Any, waiting.ping())
    await waiting.aclose()
    for other in (url, url.replace("rediss", "redis"), url.replace("localhost", "127.0.0.1")):
        client = connect_redis(other)
        with pytest.raises(redis.ConnectionError):
            client.ping()
        client.close()


def test_a_client_over_tcp_sends_nothing_that_no_role_may(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path, free_port()) as server:
        client = connect_redis(server.url)
        client.ping()
        sent: Any = client.info("commandstats")
        assert {"cmdstat_hello", "cmdstat_ping"} <= set(sent) and "cmdstat_client" not in sent
        client.close()
