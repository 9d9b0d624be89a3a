"""Which replica gets a request: the one that has its beginning in the KV cache, if that isn't much busier."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar

from online_draft.core import GenerationRequest
from online_draft.decoding.prefix import block_key, root_key

REMEMBERED = 65_536
"""Blocks whose replica is remembered."""
LOOKED_AT = 512
"""Blocks of a prompt that are looked up or remembered, from its beginning."""
SLACK = 0.25
"""So much more pressure, as a share of a replica's slots, is worth a cached beginning."""


class Place(Protocol):
    """A replica."""

    @property
    def name(self) -> str: ...
    @property
    def pressure(self) -> float: ...


P = TypeVar("P", bound=Place)


class Placement:
    """Remembers which replica computed which beginnings of prompts, by tenant and KV block.

    A request that names its session goes where all ingresses send that session (rendezvous hashing), others
    to the replica with the longest known beginning. Either gives way to the least busy replica when its own
    is busier by more than SLACK.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def choose(self, request: GenerationRequest, places: Sequence[P]) -> P:
        """One of `places`, which must not be empty."""
        least = min(places, key=lambda place: place.pressure)
        if len(places) == 1:
            return least
        keys = self._keys(request)
        wanted = self._home(request, places) or self._holder(keys, places)
        chosen = wanted if wanted is not None and wanted.pressure <= least.pressure + SLACK else least
        for key in keys:
            self._known[key] = chosen.name
            self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return chosen

    def _home(self, request: GenerationRequest, places: Sequence[P]) -> P | None:
        if request.session is None:
            return None
        salt = f"{request.tenant}\0{request.session}\0"
        return max(places, key=lambda place: blake2b((salt + place.name).encode()).digest())

    def _holder(self, keys: Sequence[bytes], places: Sequence[P]) -> P | None:
        by_name = {place.name: place for place in places}
        for key in reversed(keys):
            place = by_name.get(self._known.get(key, ""))
            if place is not None:
                return place
        return None

    def _keys(self, request: GenerationRequest) -> list[bytes]:
        size = self._block_size
        keys, parent = [], root_key(request.tenant)
        for start in range(0, min(len(request.prompt_ids) // size, LOOKED_AT) * size, size):
            parent = block_key(parent, request.prompt_ids[start : start + size])
            keys.append(parent)
        return keys
