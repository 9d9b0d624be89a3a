"""What a part of control must still know after a restart, as one value in Redis."""

from __future__ import annotations

from typing import Any, cast

import redis

from online_draft.core import SCHEMA_VERSION
from online_draft.errors import StoreError
from online_draft.store import RedisKeys, redis_errors
from online_draft.store.packing import pack, unpack


class Memory:
    """A mapping of plain data under a name. Losing it costs a message that comes twice, never a decision."""

    def __init__(self, client: redis.Redis, keys: RedisKeys, name: str) -> None:
        self._client = client
        self._key = keys.control_memory(name)
        self._kept = b""

    def recall(self) -> dict[str, Any]:
        """What was kept last; empty when nothing was, or by another schema. StoreError when Redis can't be
        used."""
        with redis_errors("recall"):
            raw = cast("bytes | None", self._client.get(self._key))
        try:
            found = {} if raw is None else unpack(raw, "control's memory")
        except StoreError:
            return {}
        return found if isinstance(found, dict) and found.get("schema") == SCHEMA_VERSION else {}

    def keep(self, state: dict[str, Any]) -> None:
        """Replace what was kept, if it is different. StoreError when Redis can't be used."""
        packed = pack({"schema": SCHEMA_VERSION, **state})
        if packed == self._kept:
            return
        with redis_errors("remember"):
            self._client.set(self._key, packed)
        self._kept = packed
