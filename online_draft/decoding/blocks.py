"""Which KV slots belong to whom."""

from __future__ import annotations


class BlockAllocator:
    """Hands out blocks of `block_size` KV slots, lowest numbers first so that runs are often contiguous.

    Block 0 is never handed out: its slots take the writes of padding rows. Not thread-safe.
    """

    def __init__(self, num_slots: int, block_size: int) -> None:
        self.block_size = block_size
        self.num_blocks = num_slots // block_size
        self._free = list(range(self.num_blocks - 1, 0, -1))
        self._owned: dict[str, list[int]] = {}

    @property
    def free_blocks(self) -> int:
        """Blocks that can be handed out now."""
        return len(self._free)

    @property
    def usable_blocks(self) -> int:
        """Blocks in all, without the padding block."""
        return self.num_blocks - 1

    def blocks_for(self, tokens: int) -> int:
        """Blocks that `tokens` tokens need."""
        return -(-tokens // self.block_size)

    def allocate(self, owner: str, tokens: int) -> list[int] | None:
        """Give `owner` room for `tokens` tokens: the slots in order, or None (and nothing is taken)."""
        count = self.blocks_for(tokens)
        if owner in self._owned or count > len(self._free):
            return None
        blocks = [self._free.pop() for _ in range(count)]
        self._owned[owner] = blocks
        return [block * self.block_size + offset for block in blocks for offset in range(self.block_size)]

    def release(self, owner: str) -> None:
        """Take `owner`'s blocks back. Idempotent."""
        blocks = self._owned.pop(owner, [])
        self._free.extend(blocks)
        self._free.sort(reverse=True)

    def check_integrity(self) -> None:
        """Assert that every block is either free or owned exactly once."""
        seen = list(self._free)
        for blocks in self._owned.values():
            seen.extend(blocks)
        assert sorted(seen) == list(range(1, self.num_blocks)), "a KV block is leaked or owned twice"
