"""The listening socket of a service on this machine, held by the launcher and handed to ingress processes."""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import suppress
from pathlib import Path

from online_draft.errors import ConfigError

logger = logging.getLogger(__name__)

BACKLOG = 2048


class FrontDoor:
    """Listens from `open` to `close` without ever accepting. Who connects to the unix socket at `path`, which
    lies in a folder of this user's own, gets the listening socket."""

    def __init__(self, host: str, port: int, path: Path) -> None:
        self._address = (host, port)
        self.path = path
        self._socket: socket.socket | None = None
        self._door: socket.socket | None = None
        self._thread = threading.Thread(target=self._hand_out, name="front door", daemon=True)

    def open(self) -> None:
        """Listen. ConfigError when the address can't be had."""
        host, port = self._address
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._socket = socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise ConfigError("port", f"{host}:{port} can't be listened on: {error.strerror}") from error
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind(str(self.path))
        self._door.listen()
        self._thread.start()

    def close(self) -> None:
        """Refuse connections from now on. Idempotent."""
        for held in (self._door, self._socket):
            if held is not None:
                with suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)
                held.close()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _hand_out(self) -> None:
        assert self._door is not None and self._socket is not None
        while True:
            try:
                asking, _ = self._door.accept()
            except OSError:
                return  # closed
            with asking, suppress(OSError):
                socket.send_fds(asking, [b"s"], [self._socket.fileno()])
