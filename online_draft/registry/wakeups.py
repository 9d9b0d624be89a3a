"""Wake-ups after decisions: a Redis stream as a hint, so that pollers look at the journal at once."""

from __future__ import annotations

from typing import Any, cast

import redis

from online_draft.registry.journal import Decision
from online_draft.store import RedisKeys, redis_errors

START = "$"


def publish_wakeup(client: redis.Redis, keys: RedisKeys, decision: Decision) -> None:
    """Tell waiting replicas that the journal has grown. StoreError when Redis can't be used."""
    with redis_errors("publish a wake-up"):
        client.xadd(keys.decisions, {"seq": decision.seq}, maxlen=keys.decisions_maxlen, approximate=True)


def wait_for_wakeup(
    client: redis.Redis, keys: RedisKeys, after: str = START, block_ms: int = 1000
) -> str | None:
    """Block up to `block_ms` (less than the client's timeout) for a wake-up behind stream id `after`.

    Returns the stream id to wait behind next, or None when nothing came. StoreError when Redis can't
    be used: poll the journal and wait with a backoff.
    """
    with redis_errors("wait for a wake-up"):
        reply = cast(Any, client.xread({keys.decisions: after}, block=block_ms))
    entries = reply.get(keys.decisions.encode()) if reply else None
    return entries[-1][0].decode() if entries else None
