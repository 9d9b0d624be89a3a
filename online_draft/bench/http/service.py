"""A whole service to measure, the client process that asks it, and the same engine beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from online_draft.bench.http import client as client_module
from online_draft.bench.http.options import HttpOptions
from online_draft.bench.load.work import Work
from online_draft.decoding.config import EngineConfig
from online_draft.launch.run_file import RunFile
from online_draft.settings import Settings, load_settings


def settings_of(options: HttpOptions, state_dir: Path) -> Settings:
    """The service: nothing learns, and no request finds what an equal one left behind."""
    engine: dict[str, Any] = {
        "max_sequences": max(options.batch, EngineConfig().max_sequences),
        "speculation": options.speculation,
        "kernels": options.kernels,
        "threads": options.threads,
        "prefix_cache": False,
        "ngram": False,
    }
    return load_settings(
        {
            "target": options.target,
            "drafter": options.drafter,
            "threads": options.threads,
            "port": 0,
            "host": "127.0.0.1",
            "state_dir": state_dir,
            "engine": engine,
            "learner": {"mode": "off"},
            "control": {"enabled": False},
            "start_timeout_s": 300.0,
        }
    )


def body_of(work: Work, model: str) -> str:
    """A request as a streaming client sends it."""
    request = work.request
    sampling = request.sampling
    return json.dumps(
        {
            "model": model,
            "prompt": list(request.prompt_ids),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "store": False,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


class Clients:
    """The client process (`client.py`)."""

    def __init__(self, run: RunFile) -> None:
        address = urlsplit(run.url)
        self._address = {"host": address.hostname, "port": address.port}
        self._model = run.model
        self._process = subprocess.Popen(
            [sys.executable, str(client_module.__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Clients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def ask(self, work: Sequence[Work], clients: int) -> dict[str, Any]:
        """Send all of it, so many at a time; the client's own figures."""
        assert self._process.stdin is not None and self._process.stdout is not None
        bodies = [body_of(one, self._model) for one in work]
        print(json.dumps({**self._address, "bodies": bodies, "clients": clients}), file=self._process.stdin)
        self._process.stdin.flush()
        answered: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answered
