from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from online_draft import redis_server
from online_draft.errors import LaunchError
from online_draft.redis_server import PrivateRedis, find_redis_server
from online_draft.store import connect_redis


@pytest.fixture
def short_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="od-") as directory:
        yield Path(directory) / "r"


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_server_new_enough_is_found() -> None:
    binary = find_redis_server()
    assert binary.version >= (6, 2) and os.access(binary.path, os.X_OK)


def test_without_a_server_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "_version", lambda path: (5, 0, 7))
    with pytest.raises(LaunchError, match=r"\(5\.0\.7\).*apt install redis-server"):
        find_redis_server()


def test_the_socket_server_is_private_and_ends_without_a_trace(short_dir: Path) -> None:
    with PrivateRedis(short_dir) as server:
        pid = server.pid
        assert pid is not None and server.ping()
        assert stat.S_IMODE(short_dir.stat().st_mode) == 0o700
        client = connect_redis(server.url)
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("maxmemory") == {"maxmemory": str(256 * 2**20)}
        client.close()
    assert not server.ping()
    assert server.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.stop()


def test_the_tcp_server_listens_on_loopback_and_restarts_empty(short_dir: Path, free_port: int) -> None:
    with PrivateRedis(short_dir, port=free_port, maxmemory="8mb") as server:
        client = connect_redis(server.url)
        client.set("key", "value")
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("protected-mode") == {"protected-mode": "yes"}
        first = server.pid
        server.start()
        assert server.pid == first
        server.restart()
        assert server.pid not in (None, first)
        assert client.get("key") is None
        client.close()


def test_a_taken_port_is_a_launch_error_with_the_servers_words(short_dir: Path, free_port: int) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", free_port))
        squatter.listen()
        server = PrivateRedis(short_dir, port=free_port)
        with pytest.raises(LaunchError, match=r"did not start: .*already in use"):
            server.start()
    assert server.pid is None


def test_a_directory_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="too long; use a shorter directory"):
        PrivateRedis(tmp_path / ("x" * 120)).start()
