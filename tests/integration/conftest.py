"""A real redis-server for the whole test session, emptied before each test that uses it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator

import pytest

from online_draft.redis_server import PrivateRedis
from online_draft.store import connect_redis


@pytest.fixture(scope="session")
def redis_process() -> Iterator[PrivateRedis]:
    # pytest's tmp_path can be too long for a unix socket.
    with tempfile.TemporaryDirectory(prefix="od-redis-") as directory, PrivateRedis(directory) as server:
        yield server


@pytest.fixture
def redis_server(redis_process: PrivateRedis) -> PrivateRedis:
    """The session's server, running and empty. A test may stop, kill and restart it."""
    redis_process.start()
    client = connect_redis(redis_process.url)
    client.config_set("maxmemory", redis_process.maxmemory)
    client.flushall()
    client.close()
    return redis_process


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """`until(condition)` returns as soon as the condition holds, and fails after 20 seconds."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "the condition never held"
            time.sleep(0.005)

    return wait
