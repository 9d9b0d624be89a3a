"""Reads the records stream as the learner: at least once from Redis, exactly once to the caller."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, cast

import redis

from online_draft.buffer.books import read_books
from online_draft.buffer.ledger import Entry, Fields, ReadCounts, ReadLedger
from online_draft.buffer.sweeping import bury
from online_draft.core import Interaction
from online_draft.errors import StoreError
from online_draft.store import RedisKeys, connect_redis, redis_errors

CONSUMER = "learner"
_BLOCK_MS = 500
_PAGE = 512


class RecordReader:
    """The one consumer of the learner's group. Not thread-safe; reads block, StoreError without Redis.

    Entries stay pending in Redis until `ack`, and come again after a restart of this process. Acknowledge
    after the checkpoint that used them, and keep `to_bytes()` in that checkpoint: a restored reader knows
    doubles and gaps from before. Records of another target or schema, and those of erased tenants, are
    refused and counted; they wait for the same checkpoint (`take_refused`).
    """

    def __init__(self, redis_url: str, keys: RedisKeys, target: str, state: bytes | None = None) -> None:
        self._client = connect_redis(redis_url)
        self._keys = keys
        self.ledger = ReadLedger(target, state)
        self._refused: list[str] = []
        self._unburied: list[tuple[bytes, Fields]] = []
        self._unbooked = 0
        self._outstanding: set[bytes] = set()
        self._position: bytes | None = b"0-0"
        self._group_known = False
        self._pending_from: bytes | None = b"0"

    def read(self, count: int, block_ms: int = 0) -> list[tuple[str, Interaction]]:
        """Up to `count` records as (entry id, interaction); waits up to `block_ms` for the first.

        Pending entries of an earlier process come first. Empty when nothing came in time.
        """
        deadline = time.monotonic() + block_ms / 1000
        with redis_errors("read records"):
            while True:
                try:
                    # A reply that gets lost leaves entries pending with us: look for them first next time.
                    pending, self._pending_from = self._pending_from, self._pending_from or b"0"
                    self._ensure_group()
                    if pending is not None:
                        entries = self._read_entries(pending, count, 0)
                        following = entries[-1][0] if entries else None
                        entries = [entry for entry in entries if entry[0] not in self._outstanding]
                    else:
                        left_ms = int((deadline - time.monotonic()) * 1000)
                        entries = self._read_entries(b">", count, min(left_ms, _BLOCK_MS))
                        following = None
                    records = self._admit(entries, fresh=pending is None)
                    self._pending_from = following
                except redis.ResponseError as error:
                    if not str(error).startswith("NOGROUP"):
                        raise
                    self._forget_group()
                    continue
                if records or (pending is None and not entries and time.monotonic() >= deadline):
                    return records

    def ack(self, ids: Sequence[str]) -> None:
        """These entries were used for good. Idempotent; unknown ids are ignored."""
        if ids:
            with redis_errors("acknowledge records"):
                self._client.xack(self._keys.records, self._keys.learner_group, *ids)
            self._outstanding.difference_update(entry.encode() for entry in ids)

    @property
    def counts(self) -> ReadCounts:
        """What became of the records met so far."""
        return self.ledger.counts

    def to_bytes(self) -> bytes:
        """Counts, sequence tracks and the last of the writers' books, for the learner's checkpoint."""
        with contextlib.suppress(StoreError):
            self.ledger.note(read_books(self._client, self._keys))
        return self.ledger.to_bytes()

    def take_refused(self) -> list[str]:
        """Ids of the entries refused since the last call, to be acknowledged with those that were used."""
        refused, self._refused = self._refused, []
        return refused

    def lag(self) -> int:
        """Entries in the stream that were not read yet. Redis before 7 makes us count them."""
        with redis_errors("measure the lag"):
            for group in self._groups():
                if group["name"] == self._keys.learner_group.encode():
                    known = group.get("lag")
                    return int(known) if known is not None else self._count_after(group["last-delivered-id"])
            return self._client.xlen(self._keys.records)

    def lost_in_crash(self, now_ms: int | None = None) -> int:
        """Gaps, plus what writers that vanished had accepted and we never saw. Meaningful at lag 0.

        Books that Redis forgot count as they were at the last checkpoint, or the last time this was asked.
        """
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        books = read_books(self._client, self._keys)
        self.ledger.note(books)
        return self.counts.gaps + self.ledger.owed(books, now_ms)

    def close(self) -> None:
        """Give the connection back. Pending entries stay pending."""
        self._client.close()

    def _ensure_group(self) -> None:
        if self._group_known:
            return
        try:
            self._client.xgroup_create(self._keys.records, self._keys.learner_group, id="0", mkstream=True)
            self.ledger.knows_all = True
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
            self._position = self._last_delivered()
        self._group_known = True

    def _forget_group(self) -> None:
        """Redis came back without its data: what was pending is gone, the stream starts anew."""
        self._group_known = False
        self._outstanding.clear()
        self._position = None
        self._pending_from = None

    def _read_entries(self, start: bytes, count: int, block_ms: int) -> list[Entry]:
        """New entries (start ">") or those delivered behind `start` and never acknowledged."""
        reply = self._client.xreadgroup(
            self._keys.learner_group,
            CONSUMER,
            {self._keys.records: start},
            count=count,
            block=block_ms if block_ms > 0 else None,
        )
        streams = cast(dict[bytes, list[Entry]], reply or {})
        return streams.get(self._keys.records.encode(), [])

    def _admit(self, entries: list[Entry], fresh: bool) -> list[tuple[str, Interaction]]:
        """Sort entries out: those for the caller, and those that are refused."""
        records: list[tuple[str, Interaction]] = []
        missing_before = self.ledger.missing
        for entry, fields in entries:
            interaction = self.ledger.open(entry, fields)
            if interaction is None:
                self._refused.append(entry.decode())
            elif self.ledger.is_erased(interaction):
                self._refused.append(entry.decode())
                self._unburied.append((entry, fields or {}))
            else:
                records.append((entry.decode(), interaction))
            self._outstanding.add(entry)
        self._unbooked += self.ledger.missing - missing_before
        self.counts.delivered += len(records)
        # These records count as seen: whatever happens to Redis now, the caller gets them.
        with contextlib.suppress(redis.RedisError, OSError):
            self._tidy()
        if fresh and entries:
            self._position = entries[-1][0]
        return records

    def _tidy(self) -> None:
        """What is left to do in Redis about entries that were sorted out; tried again with the next ones."""
        if self._unburied:
            pipeline = self._client.pipeline(transaction=True)
            for entry, fields in self._unburied:
                bury(pipeline, self._keys, entry, fields)
            pipeline.execute()
            self._unburied.clear()
        if self._unbooked:
            self._book_missing(self._unbooked)
            self._unbooked = 0

    def _book_missing(self, change: int) -> None:
        """Tell numbers that the stream's length cut off from those lost for another reason."""
        if change < 0:
            late = min(-change, self.counts.gaps)
            self.counts.gaps -= late
            self.counts.trimmed -= -change - late
        elif change > 0:
            oldest = cast(list[Entry], self._client.xrange(self._keys.records, count=1))
            cut = self._position is not None and oldest and _order(oldest[0][0]) > _order(self._position)
            if cut:
                self.counts.trimmed += change
            else:
                self.counts.gaps += change

    def _last_delivered(self) -> bytes | None:
        for group in self._groups():
            if group["name"] == self._keys.learner_group.encode():
                return cast(bytes, group["last-delivered-id"])
        return None

    def _groups(self) -> list[dict[str, Any]]:
        try:
            return self._client.xinfo_groups(self._keys.records)
        except redis.ResponseError:
            return []

    def _count_after(self, delivered: bytes) -> int:
        total, start = 0, delivered
        while True:
            page = cast(
                list[Entry],
                self._client.xrange(self._keys.records, min=b"(" + start, count=_PAGE),
            )
            total += len(page)
            if len(page) < _PAGE:
                return total
            start = page[-1][0]


def _order(entry: bytes) -> tuple[int, int]:
    milliseconds, _, counter = entry.partition(b"-")
    return int(milliseconds), int(counter)
