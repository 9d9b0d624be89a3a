"""The learner as a child process, as in production but for Ray; it can be frozen while it isn't its turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from online_draft.errors import LaunchError
from online_draft.learner.actor import ENVIRONMENT, NAME
from online_draft.learner.config import LearnerConfig, LearnerPlace
from online_draft.store import connect_redis
from online_draft.store.packing import unpack

_CHILD = "online_draft.bench.interference.child"
_STATUS_EVERY_S = 0.05


class LearnerProcess:
    """Entering starts it, leaving ends it. Its output goes to `log`."""

    def __init__(self, place: LearnerPlace, config: LearnerConfig, log: Path) -> None:
        self._place = place
        self._config = config
        self._log = log
        self._client = connect_redis(place.redis_url)
        self._process: subprocess.Popen[bytes] | None = None
        self._status: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> LearnerProcess:
        arguments = [json.dumps(asdict(self._place)), json.dumps(asdict(self._config))]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _CHILD, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is ours; frozen, it ends with us all the same (SIGHUP of orphans)
                env=os.environ | ENVIRONMENT,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            self.thaw()
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        self._client.close()

    def freeze(self) -> None:
        """Stop it where it is: it takes no CPU time."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def status(self) -> dict[str, Any]:
        """What it last said of itself (once a second); empty while it has said nothing."""
        raw = cast(bytes | None, cast(Any, self._client.get(self._place.keys.status(NAME))))
        if raw is not None:  # it expires while the learner is frozen
            self._status = cast(dict[str, Any], unpack(raw, "status"))
        return self._status

    def wait_until_training(self, timeout_s: float = 120.0) -> None:
        """Block until it has trained. LaunchError with its log's last words if it ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while self.status().get("slices", 0) < 1:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = self._log.read_text(errors="replace").strip().splitlines()[-3:]
                state = self.status().get("reason", "no word from it")
                raise LaunchError(f"the learner doesn't train ({state}): {' '.join(words)}")
            time.sleep(_STATUS_EVERY_S)
