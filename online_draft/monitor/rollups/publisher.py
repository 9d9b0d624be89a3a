"""Tells Redis a process's roll-ups, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import uuid
from itertools import islice
from typing import cast

import redis

from online_draft.errors import StoreError
from online_draft.monitor.rollups.board import RollupBoard, expires
from online_draft.store import RedisKeys
from online_draft.store.packing import pack

logger = logging.getLogger(__name__)

_AT_ONCE = 256
"""Buckets of one transaction."""


class RollupPublisher:
    """Publishes a board's buckets once per `interval_s`. Redis away: counted on, told later, logged once.

    The buckets that changed go in one transaction, so that all resolutions know the same. A Redis that was
    emptied or restarted is told everything again.
    """

    def __init__(
        self, client: redis.Redis, keys: RedisKeys, board: RollupBoard, interval_s: float = 1.0
    ) -> None:
        self._client = client
        self._keys = keys
        self._board = board
        self._interval_s = interval_s
        self._field = pack([board.replica, board.instance])
        self._epoch: tuple[object, ...] = ()
        self._healthy = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollups", daemon=True)

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Publish what is left and end the thread, which gives the client back. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        elif self._thread.ident is None:
            self._client.close()

    def publish(self) -> None:
        """Fold and publish now. Raises StoreError or redis-py's errors when Redis can't be used."""
        self._board.fold()
        epoch = self._read_epoch()
        if epoch != self._epoch:
            self._board.forgotten()
            self._epoch = epoch
        while names := dict(islice(self._board.unsaid().items(), _AT_ONCE)):
            pipeline = self._client.pipeline(transaction=True)
            for name, packed in names.items():
                key = self._keys.rollup(*name)
                pipeline.hset(key, mapping={self._field: packed})
                pipeline.expireat(key, expires(name))
            pipeline.execute()
            self._board.said(names)

    def _read_epoch(self) -> tuple[object, ...]:
        """Changes when keys were deleted (the epoch with them) and when a server came back with old ones."""
        key = self._keys.rollup_epoch
        self._client.set(key, uuid.uuid4().hex, nx=True)
        server = cast("dict[str, object]", self._client.info("server"))
        return cast("bytes | None", self._client.get(key)), server.get("run_id")

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._try()
        self._try()
        self._client.close()

    def _try(self) -> None:
        try:
            self._publish_once()
        except Exception:
            logger.exception("roll-ups could not be published")

    def _publish_once(self) -> None:
        try:
            self.publish()
            self._healthy = True
        except (StoreError, redis.RedisError, OSError) as error:
            if self._healthy:
                logger.warning("roll-ups wait in memory, Redis can't be used: %s", error)
            self._healthy = False
