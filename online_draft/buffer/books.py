"""The books of record writers: what became of every finished request. Integers only."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any, cast

import redis

from online_draft.core import SCHEMA_VERSION
from online_draft.errors import StoreError
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import pack, unpack


@dataclass(frozen=True, slots=True)
class Books:
    """One writer's totals since it started. Always `produced == stored + spooled + dropped + erased`.

    `spooled` records wait in memory (in flight included); `erased` ones were a tenant's, which was erased
    before they were stored; `opted_out` requests were never produced. `bytes` were stored for `tokens`,
    prompts included. `at_ms` is the time of writing, `closed` says that the writer ended in order.
    """

    produced: int = 0
    stored: int = 0
    spooled: int = 0
    dropped: int = 0
    opted_out: int = 0
    at_ms: int = 0
    closed: bool = False
    erased: int = 0
    bytes: int = 0
    tokens: int = 0

    @property
    def accepted(self) -> int:
        """Records that got, or will get, a sequence number: the last number this writer will reach."""
        return self.produced - self.dropped - self.erased

    @property
    def balanced(self) -> bool:
        """Whether every record that was produced is accounted for."""
        return self.produced == self.stored + self.spooled + self.dropped + self.erased

    def pack(self) -> builtins.bytes:
        """Bytes for the books hash."""
        return pack(
            [
                SCHEMA_VERSION,
                self.produced,
                self.stored,
                self.spooled,
                self.dropped,
                self.opted_out,
                self.at_ms,
                self.closed,
                self.erased,
                self.bytes,
                self.tokens,
            ]
        )

    @classmethod
    def unpack(cls, data: builtins.bytes) -> Books:
        """Inverse of `pack`. StoreError when it isn't one."""
        raw = unpack(data, "books")
        types = [type(value) for value in raw] if isinstance(raw, list) else []
        # Without the last three: written before tenants could be erased.
        if not isinstance(raw, list) or types not in ([int] * 7 + [bool], [int] * 7 + [bool] + [int] * 3):
            raise StoreError("books are not readable")
        return cls(*raw[1:])


def read_books(client: redis.Redis, keys: RedisKeys) -> dict[str, Books]:
    """Last published books by writer id. StoreError when Redis can't be used."""
    with redis_errors("read books"):
        raw = cast(dict[bytes, bytes], cast(Any, client.hgetall(keys.books)))
    return {writer.decode(): Books.unpack(data) for writer, data in raw.items()}


def total(books: dict[str, Books]) -> Books:
    """Sum over writers; `at_ms` is the newest."""
    every = books.values()
    return Books(
        produced=sum(one.produced for one in every),
        stored=sum(one.stored for one in every),
        spooled=sum(one.spooled for one in every),
        dropped=sum(one.dropped for one in every),
        opted_out=sum(one.opted_out for one in every),
        at_ms=max((one.at_ms for one in every), default=0),
        closed=all(one.closed for one in every),
        erased=sum(one.erased for one in every),
        bytes=sum(one.bytes for one in every),
        tokens=sum(one.tokens for one in every),
    )
