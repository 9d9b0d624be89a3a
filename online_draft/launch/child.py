"""The system as a child process of a command that only talks to it (the demo, end-to-end tests)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from online_draft.errors import LaunchError
from online_draft.launch.run_file import RunFile, end_system, read_run_file
from online_draft.settings import ENV_PREFIX, Settings


class ChildSystem:
    """`online-draft serve` with these settings in a session of its own; Ctrl-C doesn't reach it.

    Entering blocks until it answers. Leaving ends it unless `keep` was set to True meanwhile: then it stays
    until `online-draft down`. Its output goes to `state_dir/serve.log`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.keep = False
        self.log = settings.state_dir / "serve.log"
        self.run: RunFile | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunFile:
        """Start and wait for the run file. LaunchError carries the child's last words."""
        try:
            return self._start()
        except BaseException:
            self._end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.keep:
            self._end()

    def _start(self) -> RunFile:
        settings = self._settings
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "online_draft", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=inherited() | as_environment(settings),
            )
        deadline = time.monotonic() + 2 * settings.start_timeout_s + 60
        while time.monotonic() < deadline:
            run = read_run_file(settings.state_dir)
            if run is not None and run.pid == self._process.pid:
                self.run = run
                return run
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise LaunchError(_last_words(self.log))

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        run = self.run or read_run_file(self._settings.state_dir)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if run is not None and run.pid == process.pid:
            end_system(run)
        self._process = None


def as_environment(settings: Settings) -> dict[str, str]:
    """Settings as environment variables, for a child that must see exactly these."""
    environment = {}
    for name, value in settings.model_dump(mode="json").items():
        if name == "admin_key" and settings.admin_key is not None:
            value = settings.admin_key.get_secret_value()
        if name == "webhooks":
            value = settings.webhooks.revealed()
        if value is not None:
            environment[ENV_PREFIX + name.upper()] = value if isinstance(value, str) else json.dumps(value)
    return environment


def inherited() -> dict[str, str]:
    """Our environment without settings, which are passed in full."""
    return {name: value for name, value in os.environ.items() if not _is_setting(name)}


def _is_setting(name: str) -> bool:
    field = name.upper().removeprefix(ENV_PREFIX).split("__")[0].lower()
    return name.upper().startswith(ENV_PREFIX) and field in Settings.model_fields


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "the system ended without a word"
