"""Requests to erase a tenant: numbered files on the artifact store, which replicas and learner follow.

They are kept there and not in Redis, because a learner that is away, or starts on an old checkpoint, must
find them. They hold a tenant's name and no token.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass

from online_draft.errors import StoreError
from online_draft.store import ArtifactStore

MARGIN_MS = 60_000
"""Clocks of machines differ, and replicas hear of a request a moment later: records up to this much younger
are erased with the older ones."""

_ROOT = "erasures"
_SCHEMA = 1
_NAME = re.compile(r"(\d{8})\.json")


@dataclass(frozen=True, slots=True)
class Erasure:
    """One request. Whoever honours them does so in the order of their numbers."""

    number: int
    tenant: str
    requested_at_ms: int

    @property
    def until_ms(self) -> int:
        """Records of the tenant that finished until then are not kept by anybody."""
        return self.requested_at_ms + MARGIN_MS


class ErasureLog:
    """`erasures/NNNNNNNN.json`, created exclusively, never changed. Stateless; calls block on the store.

    StoreError when the store can't be read or an entry isn't one.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def request(self, tenant: str, now_ms: int | None = None) -> Erasure:
        """Write a request, durable on return."""
        at_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        number = self.last() + 1
        while True:
            erasure = Erasure(number, tenant, at_ms)
            data = json.dumps({"schema": _SCHEMA, **asdict(erasure)}).encode()
            if self._store.create_exclusive(f"{_ROOT}/{number:08d}.json", data):
                return erasure
            number += 1

    def read(self, after: int = 0) -> list[Erasure]:
        """The requests with numbers above `after`, in order."""
        return [self._read(number) for number in self._numbers() if number > after]

    def last(self) -> int:
        """The newest request's number, 0 without any."""
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        return [int(found[1]) for name in self._store.list(_ROOT) if (found := _NAME.fullmatch(name))]

    def _read(self, number: int) -> Erasure:
        path = f"{_ROOT}/{number:08d}.json"
        try:
            raw = json.loads(self._store.read_bytes(path))
            if raw["schema"] != _SCHEMA:
                raise StoreError(f"{path} has schema {raw['schema']}, this code reads {_SCHEMA}")
            return Erasure(number, str(raw["tenant"]), int(raw["requested_at_ms"]))
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is not a request to erase: {error!r}") from error
