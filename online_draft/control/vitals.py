"""What learner and record writers say of themselves, and whether that is well."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import redis

from online_draft.buffer.books import Books, read_books, total
from online_draft.control.alarms import Alarm
from online_draft.control.config import ControlConfig
from online_draft.control.memory import Memory
from online_draft.errors import StoreError
from online_draft.monitor.learner_history import LearnerHistory
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import unpack

logger = logging.getLogger(__name__)

LEARNER = "learner"
EVERY_MS = 5_000
_PROGRESS = ("steps", "looks", "drift_samples")
"""Of its counters those that change when it gets on."""


class Vitals:
    """Looks now and then; `alarms` are of the last look that Redis answered. For one thread.

    When the learner last got on is kept in Redis, so that a control that was started anew doesn't begin to
    wait again.
    """

    def __init__(self, client: redis.Redis, keys: RedisKeys, config: ControlConfig) -> None:
        self._client = client
        self._keys = keys
        self._config = config
        self._memory = Memory(client, keys, "vitals")
        self._history = LearnerHistory(client, keys)
        self._marks: list[int] | None = None
        self._got_on_ms = 0
        self._due_ms = 0
        self.alarms: list[Alarm] = []

    def tick(self, now_ms: int) -> None:
        """Look if it is time. Blocks for Redis; never raises when it is away."""
        if 0 < self._due_ms - now_ms <= EVERY_MS:
            return
        self._due_ms = now_ms + EVERY_MS
        try:
            books = total(read_books(self._client, self._keys))
            learner = self._learner()
            if learner is not None:
                self._history.note(learner, now_ms // 1000)
            self._follow(learner, now_ms)
            self.alarms = [*books_alarms(books), *self._learner_alarms(learner, now_ms)]
        except StoreError as error:
            logger.debug("learner and books can't be looked at: %s", error)

    def _learner(self) -> Mapping[str, Any] | None:
        with redis_errors("read the learner's status"):
            (raw,) = cast("list[bytes | None]", self._client.mget([self._keys.status(LEARNER)]))
        found = None if raw is None else unpack(raw, "the learner's status")
        return found if isinstance(found, Mapping) else None

    def _follow(self, learner: Mapping[str, Any] | None, now_ms: int) -> None:
        """Note when the learner got on. One that is gone is its keeper's task."""
        if self._marks is None:
            kept = self._memory.recall()
            self._marks, self._got_on_ms = list(kept.get("marks", [])), int(kept.get("got_on_ms", now_ms))
        marks = [] if learner is None else [int(learner.get(name) or 0) for name in _PROGRESS]
        if learner is None or _rests(learner) or marks != self._marks:
            self._marks, self._got_on_ms = marks, now_ms
        self._memory.keep({"marks": self._marks, "got_on_ms": self._got_on_ms})

    def _learner_alarms(self, learner: Mapping[str, Any] | None, now_ms: int) -> list[Alarm]:
        if learner is None:
            return []
        found = []
        seconds = (now_ms - self._got_on_ms) / 1000
        if seconds > self._config.stalled_after_s:
            reason = f"{learner.get('state')}: {learner.get('reason') or 'no reason given'}"
            message = f"has learnt and compared nothing for {seconds / 60:.0f} min, {reason}"
            found.append(Alarm("learner_stalled", LEARNER, message, self._got_on_ms))
        lag = (learner.get("feed") or {}).get("lag")
        if isinstance(lag, int) and lag > self._config.lag_records:
            found.append(Alarm("buffer_lag", LEARNER, f"{lag} records wait to be read"))
        return found


def _rests(learner: Mapping[str, Any]) -> bool:
    """Whether there is nothing to get on with. One that fails waits, too, to try again."""
    failed = str(learner.get("reason", "")).startswith("failed")
    return learner.get("state") == "paused" or (learner.get("state") == "waiting" and not failed)


def books_alarms(books: Books) -> list[Alarm]:
    """Records that are nowhere."""
    if books.balanced:
        return []
    message = (
        f"produced {books.produced}, but stored {books.stored}, spooled {books.spooled}, "
        f"dropped {books.dropped} and erased {books.erased}"
    )
    return [Alarm("books_unbalanced", "books", message)]
