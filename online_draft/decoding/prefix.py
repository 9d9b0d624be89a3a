"""Which KV blocks hold which tokens: hashes of whole prefixes, salted by tenant."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

_DIGEST_BYTES = 16


def root_key(tenant: str) -> bytes:
    """What a tenant's first block follows. Tenants never meet: each has its own root."""
    return blake2b(tenant.encode(), digest_size=_DIGEST_BYTES, person=b"kv prefix").digest()


def block_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Key of a full block: stands for its tokens and all before them."""
    return blake2b(array("q", tokens), digest_size=_DIGEST_BYTES, key=parent).digest()


class PrefixTable:
    """Full blocks by key, one block a key. A registered block is never written again."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def match(self, keys: Sequence[bytes]) -> list[int]:
        """Blocks of the longest known run of keys from the first one on."""
        found = []
        for key in keys:
            block = self._blocks.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def register(self, key: bytes, block: int) -> bool:
        """Make a full block findable. False when another block has this key already; that one stays."""
        if key in self._blocks:
            return False
        self._blocks[key] = block
        self._keys[block] = key
        return True

    def forget(self, block: int) -> None:
        """Its content is about to be overwritten."""
        del self._blocks[self._keys.pop(block)]

    def check_integrity(self) -> None:
        """Assert that both directions say the same."""
        assert {block: key for key, block in self._blocks.items()} == self._keys, "the prefix table is torn"
