"""A real redis-server for the whole test session, emptied before each test that uses it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from online_draft.buffer.reader import RecordReader
from online_draft.redis_server import PrivateRedis, find_redis_server
from online_draft.store import RedisKeys, connect_redis
from online_draft.store.roles import ROLES, Role, acl_file


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
def client(redis_server: PrivateRedis) -> Iterator[Any]:
    """A connection to the session's server."""
    connection = connect_redis(redis_server.url)
    yield connection
    connection.close()


@pytest.fixture
def readers(redis_server: PrivateRedis) -> Iterator[Callable[..., RecordReader]]:
    """`readers(target, state)` of the records below `test:`; closed after the test."""
    made: list[RecordReader] = []

    def make(target: str = "llama-0123456789abcdef-01234567", state: bytes | None = None) -> RecordReader:
        made.append(RecordReader(redis_server.url, RedisKeys("test"), target, state))
        return made[-1]

    yield make
    for reader in made:
        reader.close()


class GuardedRedis(PrivateRedis):
    """A server with a user for each role, read from an ACL file. `url` is everybody's superior."""

    def url_of(self, user: Role | Literal["default"]) -> str:
        return f"unix://{user}:pass-of-{user}@{self._socket}"

    @property
    def url(self) -> str:
        return self.url_of("default")

    @property
    def selectors(self) -> bool:
        """Whether grants are kept apart: from Redis 7 on."""
        return find_redis_server().version >= (7,)

    def denied(self) -> list[dict[str, Any]]:
        """What users tried and were not allowed, since the last call."""
        client = connect_redis(self.url)
        entries: list[dict[str, Any]] = client.acl_log()
        client.acl_log_reset()
        client.close()
        return entries

    def _config(self) -> str:
        file = self.directory / "users.acl"
        passwords = {role: f"pass-of-{role}" for role in ROLES}
        file.write_text(acl_file(passwords, default="pass-of-default", selectors=self.selectors))
        return f'{super()._config()}aclfile "{file}"\n'


@pytest.fixture(scope="module")
def guarded_redis() -> Iterator[GuardedRedis]:
    with tempfile.TemporaryDirectory(prefix="od-redis-") as directory, GuardedRedis(directory) as server:
        yield server
