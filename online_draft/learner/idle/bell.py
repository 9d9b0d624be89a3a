"""Hears at once when a replica becomes busy, so that a slice can end early. A hint: the load decides."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from typing import Any, cast

import redis

from online_draft.monitor.load import machine_of
from online_draft.store import RedisKeys, connect_redis

logger = logging.getLogger(__name__)

LISTEN_S = 1.0
RETRY_S = 1.0


class BusyBell:
    """A thread that listens to the replicas, and to those of other models (`others`) on this machine. `rung`
    and `take` are cheap and never block; without Redis the bell stays silent. The thread keeps the OS
    priority of the one that called `start`."""

    def __init__(self, redis_url: str, keys: RedisKeys, others: Sequence[RedisKeys] = ()) -> None:
        self._client = connect_redis(redis_url)
        self._channel = keys.busy
        self._channels = [keys.busy, *(other.busy for other in others)]
        self._machine = socket.gethostname()
        self._rung = threading.Event()
        self._closing = threading.Event()
        self.listening = threading.Event()
        """Set while it would hear a replica."""
        self._thread = threading.Thread(target=self._run, name="busy-bell", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def rung(self) -> bool:
        """Whether a replica said that it is busy since the last `take`."""
        return self._rung.is_set()

    def take(self) -> bool:
        """`rung`, and forget it."""
        rung = self._rung.is_set()
        self._rung.clear()
        return rung

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(2 * LISTEN_S)
        self._client.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError, ValueError) as error:
                logger.debug("replicas can't be heard: %s", error)
                self.listening.clear()
                self._closing.wait(RETRY_S)

    def _listen(self) -> None:
        with cast(Any, self._client).pubsub() as heard:
            heard.subscribe(*self._channels)
            heard_of = 0
            while not self._closing.is_set():
                message: dict[str, Any] | None = heard.get_message(timeout=LISTEN_S)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    heard_of += 1
                    if heard_of == len(self._channels):
                        self.listening.set()
                elif self._concerns(message):
                    self._rung.set()
        self.listening.clear()

    def _concerns(self, message: dict[str, Any]) -> bool:
        own = message["channel"] == self._channel.encode()
        return own or machine_of(message["data"].decode(errors="replace")) == self._machine
