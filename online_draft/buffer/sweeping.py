"""Takes a tenant's records out of the stream, and leaves their numbers there, so that the books balance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import redis

from online_draft.buffer.records import tenant_of
from online_draft.errors import StoreError
from online_draft.store import RedisKeys, redis_errors

_PAGE = 256


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep met: `scanned` records, of which it `erased` some; of others it can't read the owner."""

    scanned: int = 0
    erased: int = 0
    unreadable: int = 0


def sweep(client: redis.Redis, keys: RedisKeys, tenant: str) -> Swept:
    """Erase a tenant's records from the stream. Idempotent; blocks. StoreError when Redis can't be used."""
    scanned = erased = unreadable = 0
    start = b"-"
    with redis_errors("erase records"):
        while True:
            page = cast(Any, client.xrange(keys.records, min=start, count=_PAGE))
            doomed = []
            for entry, fields in page:
                if b"d" not in fields:
                    continue
                scanned += 1
                try:
                    if tenant_of(fields[b"d"]) == tenant:
                        doomed.append((entry, fields))
                except StoreError:
                    unreadable += 1
            if doomed:
                pipeline = client.pipeline(transaction=True)
                for entry, fields in doomed:
                    bury(pipeline, keys, entry, fields)
                pipeline.execute()
                erased += len(doomed)
            if len(page) < _PAGE:
                return Swept(scanned, erased, unreadable)
            start = b"(" + page[-1][0]


def bury(pipeline: Any, keys: RedisKeys, entry: bytes, fields: dict[bytes, bytes]) -> None:
    """Queue the deletion of an entry. What stays is a stone: its writer and number, in field `e` its id."""
    stone = {b"w": fields.get(b"w", b""), b"s": fields.get(b"s", b"0"), b"e": entry}
    pipeline.xadd(keys.records, stone)
    pipeline.xdel(keys.records, entry)
