"""The run file: what a running system leaves behind so that other commands find it and can end it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path

from online_draft.errors import ConfigError
from online_draft.launch.processes import end_all, start_ticks

NAME = "run.json"
DEMO_DIR = "demo"
"""The demo's state lies in this subdirectory of the state directory."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """A running system. `started` are the kernel's start times (clock ticks since boot) of `pid` and of
    every process in `helpers` (name -> pid), so that a number that was given to somebody else since is never
    signalled. `tls_cert` is the file of the certificate if the endpoint speaks HTTPS. `model`, `target` and
    `fingerprint` are the first model's; `models` are the fingerprints of all by name."""

    pid: int
    host: str
    port: int
    model: str
    target: str
    fingerprint: str
    admin_key: str
    redis_url: str
    state_dir: str
    temp_dir: str
    helpers: dict[str, int]
    started: dict[str, int]
    tls_cert: str | None = None
    models: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Base URL of the endpoint, without `/v1`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"{'http' if self.tls_cert is None else 'https'}://{host}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the main process still runs."""
        return self.owns(self.pid)

    def owns(self, pid: int) -> bool:
        """Whether `pid` is still the process that was recorded."""
        return start_ticks(pid) == self.started.get(str(pid), -1)

    def write(self) -> Path:
        """Write it, readable by this user only, at once."""
        path = Path(self.state_dir) / NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(self), file, indent=2)
        os.replace(temporary, path)
        return path

    def remove(self) -> None:
        """Remove it. Idempotent."""
        (Path(self.state_dir) / NAME).unlink(missing_ok=True)


def read_run_file(state_dir: Path) -> RunFile | None:
    """The run file in a state directory; None when there is none or it can't be understood."""
    try:
        return RunFile(**json.loads((state_dir / NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def find_run_files(state_dir: Path) -> list[RunFile]:
    """Systems that run from this state directory, the demo's included; files of dead ones are removed."""
    found = []
    for directory in (state_dir, state_dir / DEMO_DIR):
        run = read_run_file(directory)
        if run is not None and run.alive:
            found.append(run)
        elif run is not None and not any(run.owns(pid) for pid in run.helpers.values()):
            run.remove()
        elif run is not None:
            found.append(run)
    return found


def require_run_file(state_dir: Path) -> RunFile:
    """The one running system. ConfigError when there is none."""
    runs = [run for run in find_run_files(state_dir) if run.alive]
    if not runs:
        raise ConfigError(
            "state_dir", f"no system runs from {state_dir}; start one with `online-draft serve`"
        )
    return runs[0]


def end_system(run: RunFile, grace_s: float = 30.0) -> None:
    """Ask the main process to end, then make it, then what it left. Only recorded processes are touched."""
    if run.alive:
        os.kill(run.pid, signal.SIGTERM)
        end_all([run.pid], grace_s)
    end_all([pid for pid in run.helpers.values() if run.owns(pid)], min(grace_s, 5.0))
    shutil.rmtree(run.temp_dir, ignore_errors=True)
    run.remove()
