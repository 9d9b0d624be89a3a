"""Writes interactions to the records stream in the background. Serving never waits for Redis."""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import redis

from online_draft.buffer.books import Books
from online_draft.buffer.quota import TenantQuota
from online_draft.buffer.records import encode
from online_draft.core import Interaction
from online_draft.errors import ConfigError, StoreError
from online_draft.store import RedisKeys, connect_redis

Publisher = Callable[[Any, bool], None]
"""Adds commands to the writer's pipeline, once a publishing interval; True: everything, not only news."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WriterConfig:
    """`max_queue` records wait in memory at most, `maxlen` (approximately) in Redis; of one tenant
    `tenant_per_minute` are taken (0: all). Times in seconds."""

    max_queue: int = 4096
    maxlen: int = 20_000
    tenant_per_minute: int = 0
    batch: int = 64
    publish_every_s: float = 1.0
    publish_all_every_s: float = 10.0
    first_backoff_s: float = 0.05
    last_backoff_s: float = 5.0
    timeout_s: float = 2.0

    def __post_init__(self) -> None:
        for name in ("max_queue", "maxlen", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"buffer.{name}", f"{getattr(self, name)} is not an integer >= 1")
        if self.tenant_per_minute < 0:
            raise ConfigError("buffer.tenant_per_minute", f"{self.tenant_per_minute} is not an integer >= 0")


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A record on its way; without `record` one that was erased there, whose number is still to be told."""

    sequence: int
    tenant: str
    tokens: int
    record: bytes | None


class RecordWriter:
    """One per serving process. Thread-safe; owns a thread and a connection until `close`.

    Records get consecutive sequence numbers under a writer id that is new for every instance. An XADD
    whose outcome is unknown (timeout, lost connection) is sent again and counted once; the reader drops
    the double. While Redis is away records wait in the queue; what doesn't fit is dropped and counted.
    `publish` puts further commands into the same connection (speculation counts).
    """

    def __init__(
        self,
        redis_url: str,
        keys: RedisKeys,
        writer_id: str,
        config: WriterConfig | None = None,
        publish: Publisher | None = None,
    ) -> None:
        self.writer_id = f"{writer_id}-{uuid.uuid4().hex[:8]}"
        self.config = config or WriterConfig()
        self._client = connect_redis(redis_url, self.config.timeout_s)
        self._keys = keys
        self._publish = publish
        self._changed = threading.Condition()
        self._quota = TenantQuota(self.config.tenant_per_minute)
        self._queue: deque[Interaction] = deque()
        self._sending = threading.Lock()
        """Held while records go from the queue to Redis; taken before `_changed`."""
        self._in_flight: list[_Numbered] = []
        self._produced = self._stored = self._dropped = self._opted_out = self._erased = 0
        self._bytes = self._tokens = 0
        self._sequence = 0
        self._closing = False
        self._give_up_at = float("inf")
        self._failures = 0
        self._published_at = self._published_all_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="record-writer", daemon=True)
        self._thread.start()

    def put(self, interaction: Interaction) -> bool:
        """Queue one interaction; False when it was dropped. Never blocks on I/O and never raises."""
        with self._changed:
            self._produced += 1
            full = len(self._queue) + len(self._in_flight) >= self.config.max_queue
            if self._closing or full or not self._quota.admit(interaction.tenant):
                self._dropped += 1
                return False
            self._queue.append(interaction)
            self._changed.notify()
            return True

    def opt_out(self) -> None:
        """Count a request whose client did not consent. Nothing else of it is kept."""
        with self._changed:
            self._opted_out += 1

    def forget(self, tenant: str) -> int:
        """Erase what waits of a tenant; how many records those were. Blocks while a batch is being sent: on
        return nothing that was put before can reach Redis any more, but what went with that batch."""
        with self._sending, self._changed:
            kept = deque(one for one in self._queue if one.tenant != tenant)
            gone = len(self._queue) - len(kept)
            self._queue = kept
            self._erased += gone
            for place, entry in enumerate(self._in_flight):
                if entry.tenant == tenant and entry.record is not None:
                    self._in_flight[place] = replace(entry, record=None)
                    gone += 1
        return gone

    def books(self) -> Books:
        """The totals now, consistent with each other."""
        with self._changed:
            return Books(
                produced=self._produced,
                stored=self._stored,
                spooled=len(self._queue) + len(self._in_flight),
                dropped=self._dropped,
                opted_out=self._opted_out,
                at_ms=time.time_ns() // 1_000_000,
                closed=self._closing,
                erased=self._erased,
                bytes=self._bytes,
                tokens=self._tokens,
            )

    @property
    def connected(self) -> bool:
        """Whether the last exchange with Redis succeeded."""
        return self._failures == 0

    def close(self, timeout_s: float = 5.0) -> Books:
        """Write out what is queued, drop the rest after `timeout_s`, end the thread. Idempotent. May last
        one Redis timeout longer when Redis hangs."""
        with self._changed:
            if not self._closing:
                self._give_up_at = time.monotonic() + timeout_s
            self._closing = True
            self._changed.notify()
        self._thread.join()
        return self.books()

    def _run(self) -> None:
        while True:
            self._wait_for_work()
            try:
                with self._sending:
                    self._fill_batch()
                    self._send_batch()
                self._send_news()
            except (redis.RedisError, OSError) as error:
                self._back_off(error)
            else:
                self._failures = 0
            if self._closing and (self.books().spooled == 0 or time.monotonic() >= self._give_up_at):
                break
        self._finish()

    def _wait_for_work(self) -> None:
        with self._changed:
            if not (self._queue or self._in_flight or self._closing):
                due = self._published_at + self.config.publish_every_s - time.monotonic()
                if due > 0:
                    self._changed.wait(due)

    def _fill_batch(self) -> None:
        while len(self._in_flight) < self.config.batch:
            with self._changed:
                if not self._queue:
                    return
                interaction = self._queue[0]
            try:
                record = encode(interaction)
            except StoreError as error:
                logger.error("dropped an interaction that contradicts itself: %s", error)
                with self._changed:
                    self._queue.popleft()
                    self._dropped += 1
                continue
            with self._changed:
                self._queue.popleft()
                self._sequence += 1
                tokens = len(interaction.prompt_ids) + len(interaction.output_ids)
                self._in_flight.append(_Numbered(self._sequence, interaction.tenant, tokens, record))

    def _send_batch(self) -> None:
        if not self._in_flight:
            return
        pipeline = self._client.pipeline(transaction=False)
        for entry in self._in_flight:
            pipeline.xadd(
                self._keys.records, self._fields(entry), maxlen=self.config.maxlen, approximate=True
            )
        replies = pipeline.execute(raise_on_error=False)
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        with self._changed:
            sent = list(zip(self._in_flight, replies, strict=True))
            self._in_flight = [entry for entry, reply in sent if isinstance(reply, Exception)]
            stored = [entry for entry, reply in sent if not isinstance(reply, Exception)]
            self._stored += len(stored)
            for entry in stored:
                if entry.record is not None:
                    self._tokens += entry.tokens
                    self._bytes += sum(len(name) + len(value) for name, value in self._fields(entry).items())
        if errors:
            if isinstance(errors[0], redis.exceptions.OutOfMemoryError):
                # Only a shorter stream lets writes through again; its oldest half is worth least.
                length = self._client.xlen(self._keys.records)
                self._client.xtrim(self._keys.records, maxlen=length // 2, approximate=False)
            raise errors[0]

    def _fields(self, entry: _Numbered) -> dict[Any, Any]:
        what = {b"e": b""} if entry.record is None else {b"d": entry.record}
        return {b"w": self.writer_id.encode(), b"s": str(entry.sequence).encode(), **what}

    def _send_news(self) -> None:
        now = time.monotonic()
        if now < self._published_at + self.config.publish_every_s and not self._closing:
            return
        # A Redis that restarted has forgotten what we said; saying all now and then heals that.
        everything = self._failures > 0 or now >= self._published_all_at + self.config.publish_all_every_s
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hset(self._keys.books, self.writer_id, self.books().pack())
        if self._publish is not None:
            self._publish(pipeline, everything)
        pipeline.execute()
        self._published_at = now
        if everything:
            self._published_all_at = now

    def _back_off(self, error: Exception) -> None:
        if self._failures == 0:
            logger.warning("records wait in memory, Redis can't be used: %s", error)
        self._failures += 1
        # What was published in the failed exchange is unknown: publish everything next time.
        self._published_at = self._published_all_at = float("-inf")
        ceiling = min(self.config.last_backoff_s, self.config.first_backoff_s * 2 ** min(self._failures, 30))
        pause = random.uniform(self.config.first_backoff_s / 2, ceiling)
        with self._changed:
            if self._closing:
                self._changed.wait(self.config.first_backoff_s)
            else:
                self._changed.wait_for(lambda: self._closing, pause)

    def _finish(self) -> None:
        with self._changed:
            self._dropped += len(self._queue) + len(self._in_flight)
            self._queue.clear()
            self._in_flight.clear()
        if self.connected:
            try:
                self._client.hset(self._keys.books, self.writer_id, self.books().pack())
            except (redis.RedisError, OSError) as error:
                logger.warning("last books not published: %s", error)
        self._client.close()
