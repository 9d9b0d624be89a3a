"""How busy each replica is, said several times a second: what the learner yields to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import redis

from online_draft.errors import StoreError
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import pack, unpack


@dataclass(frozen=True, slots=True)
class Load:
    """Sequences running and waiting on one replica at `at_ms`."""

    running: int
    waiting: int
    at_ms: int

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return self.running + self.waiting > 0


def publish_load(client: Any, keys: RedisKeys, replica: str, load: Load) -> None:
    """Say a replica's load, aloud if it is busy. `client` may be a pipeline. StoreError when Redis can't be
    used."""
    with redis_errors("publish load"):
        client.hset(keys.load, replica, pack([load.running, load.waiting, load.at_ms]))
        client.expire(keys.load, keys.load_ttl_s)
        if load.busy:
            client.publish(keys.busy, replica)


def read_loads(client: redis.Redis, keys: RedisKeys, now_ms: int) -> dict[str, Load]:
    """Fresh loads by replica; what is older than `keys.load_fresh_ms` is unknown and left out.

    StoreError when Redis can't be used: the load is unknown, yield.
    """
    with redis_errors("read load"):
        raw = cast(dict[bytes, bytes], cast(Any, client.hgetall(keys.load)))
    loads = {name.decode(): _unpack(data) for name, data in raw.items()}
    return {name: load for name, load in loads.items() if now_ms - load.at_ms <= keys.load_fresh_ms}


def machine_of(replica: str) -> str:
    """The machine of a replica, by its id."""
    return replica.rpartition("-")[0]


def _unpack(data: bytes) -> Load:
    raw = unpack(data, "load")
    if not isinstance(raw, list) or [type(value) for value in raw] != [int] * 3:
        raise StoreError("load is not readable")
    return Load(*raw)
