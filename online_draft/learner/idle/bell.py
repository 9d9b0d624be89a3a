"""Hears at once when a replica becomes busy, so that a slice can end early. A hint: the load decides."""

from __future__ import annotations

import logging
import threading
from typing import Any, cast

import redis

from online_draft.store import RedisKeys, connect_redis

logger = logging.getLogger(__name__)

LISTEN_S = 1.0
RETRY_S = 1.0


class BusyBell:
    """A thread that listens to the replicas. `rung` and `take` are cheap and never block; without Redis the
    bell stays silent. The thread keeps the OS priority of the one that called `start`."""

    def __init__(self, redis_url: str, keys: RedisKeys) -> None:
        self._client = connect_redis(redis_url)
        self._channel = keys.busy
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
            heard.subscribe(self._channel)
            while not self._closing.is_set():
                message: dict[str, Any] | None = heard.get_message(timeout=LISTEN_S)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self.listening.set()
                else:
                    self._rung.set()
        self.listening.clear()
