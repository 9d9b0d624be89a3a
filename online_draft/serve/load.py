"""Tells Redis how busy a replica is, so that the learner yields. Never blocks serving."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from online_draft.errors import StoreError
from online_draft.monitor.load import Load, publish_load
from online_draft.store import RedisKeys
from online_draft.store.packing import pack

logger = logging.getLogger(__name__)


class LoadPublisher:
    """Publishes `load()` (running, waiting) every `interval_s` and at once after `wake`, on its own thread.

    Once a second it also caches `status()` for the admin API, and every second time `details()`. Redis away:
    logged once, tried again.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: RedisKeys,
        replica_id: str,
        load: Callable[[], tuple[int, int]],
        status: Callable[[], dict[str, Any]],
        interval_s: float = 0.25,
        details: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self._client = client
        self._keys = keys
        self._replica_id = replica_id
        self._load = load
        self._status = status
        self._details = details
        self._details_turn = False
        self._interval_s = interval_s
        self._wake = threading.Event()
        self._closing = False
        self._healthy = True
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    def wake(self) -> None:
        """Publish now. Never blocks."""
        self._wake.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Say goodbye (the replica's load is removed) and end the thread. Idempotent."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        status_due = 0.0
        while not self._closing:
            self._wake.clear()
            now = time.monotonic()
            try:
                self._publish(with_status=now >= status_due)
                self._healthy = True
            except (StoreError, redis.RedisError, OSError) as error:
                if self._healthy:
                    logger.warning("load can't be published, Redis can't be used: %s", error)
                self._healthy = False
            if now >= status_due:
                status_due = now + 1.0
            self._wake.wait(self._interval_s if self._healthy else 1.0)
        try:
            self._client.hdel(self._keys.load, self._replica_id)
        except (redis.RedisError, OSError):
            logger.debug("load not removed: Redis can't be used")
        self._client.close()

    def _publish(self, with_status: bool) -> None:
        running, waiting = self._load()
        pipeline = self._client.pipeline(transaction=False)
        load = Load(running, waiting, time.time_ns() // 1_000_000)
        publish_load(pipeline, self._keys, self._replica_id, load)
        if with_status:
            pipeline.set(
                self._keys.status(self._replica_id), pack(self._status()), ex=self._keys.status_ttl_s
            )
            self._details_turn = not self._details_turn
            if self._details is not None and self._details_turn:
                name, told = self._keys.details(self._replica_id), pack(self._details())
                pipeline.set(name, told, ex=self._keys.status_ttl_s)
        pipeline.execute()
