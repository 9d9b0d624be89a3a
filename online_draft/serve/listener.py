"""An ingress that speaks HTTP itself, on a socket that outlives it, instead of through Ray Serve's proxy.

Whoever holds the listening socket (`launch.front_door`) hands it to every ingress process. All of them accept
from it, so that connections wait in the kernel while one ingress ends and the next one begins.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from online_draft.errors import LaunchError
from online_draft.serve.bounded_http import BoundedHttp
from online_draft.serve.config import ListenConfig

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
KEEP_ALIVE_S = 75


def take_socket(door: str) -> socket.socket:
    """The service's listening socket. LaunchError when it isn't handed out."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(TIMEOUT_S)
            asking.connect(door)
            _, descriptors, _, _ = socket.recv_fds(asking, 1, 1)
    except OSError as error:
        raise LaunchError(f"{door} hands out no socket: {error}") from error
    if not descriptors:
        raise LaunchError(f"{door} hands out no socket")
    return socket.socket(fileno=descriptors[0])


class Listener:
    """Serves an application on the running event loop from `start` to `end`."""

    def __init__(self, app: FastAPI, config: ListenConfig, grace_s: float) -> None:
        """Requests that run at the end have `grace_s` seconds to finish."""
        self._socket = take_socket(config.door)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=BoundedHttp,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(grace_s),
                ssl_certfile=config.cert,
                ssl_keyfile=config.key,
            )
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Accept connections."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._socket]))
        self._task.add_done_callback(_note)

    @property
    def alive(self) -> bool:
        """Whether connections are accepted."""
        return self._task is not None and not self._task.done()

    @property
    def requests(self) -> int:
        """Requests under way."""
        return len(self._server.server_state.tasks)

    async def end(self) -> None:
        """Accept no more, and wait for what runs."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task})


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are Ray's."""
        yield


def _note(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("the HTTP server has failed", exc_info=task.exception())
