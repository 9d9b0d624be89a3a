"""Which KV blocks are free, cached or in use."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from online_draft.decoding.prefix import PrefixTable


class BlockPool:
    """Blocks of `block_size` KV slots with reference counts. Not thread-safe.

    Every block is either free, cached (free, but its prefix can still be found; overwritten when nothing
    else is left, longest unused first) or held by as many sequences as its count says. Block 0 is never
    handed out: its slots take the writes of padding rows.
    """

    def __init__(self, num_slots: int, block_size: int) -> None:
        self.block_size = block_size
        self.num_blocks = num_slots // block_size
        self.prefixes = PrefixTable()
        self.evictions = 0
        self.changes = 0
        """Grows with every release and every new prefix: what did not fit before may fit now."""
        # Keys only; popitem() gives the newest, so a released run is handed out again in ascending order.
        self._free = dict.fromkeys(range(self.num_blocks - 1, 0, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * self.num_blocks

    @property
    def available(self) -> int:
        """Blocks that can be handed out now, cached ones included."""
        return len(self._free) + len(self._cached)

    @property
    def cached(self) -> int:
        """Blocks that nobody holds but whose prefix can be found."""
        return len(self._cached)

    @property
    def usable(self) -> int:
        """Blocks in all, without the padding block."""
        return self.num_blocks - 1

    def blocks_for(self, tokens: int) -> int:
        """Blocks that `tokens` tokens need."""
        return -(-tokens // self.block_size)

    def idle(self, blocks: Iterable[int]) -> int:
        """How many of these blocks nobody holds."""
        holders = self._holders
        return sum(not holders[block] for block in blocks)

    def take(self, count: int, after: int = 0) -> list[int] | None:
        """`count` blocks for one holder, or None (and nothing is taken).

        Neighbours of block `after` are preferred: a context in one run needs no gather.
        """
        if count > len(self._free) + len(self._cached):
            return None
        taken = []
        for _ in range(count):
            after = self._next(after + 1)
            self._holders[after] = 1
            taken.append(after)
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        """One more holder for registered blocks."""
        for block in blocks:
            if not self._holders[block]:
                del self._cached[block]
            self._holders[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One holder fewer for a sequence's blocks, given in order."""
        # Last first, so that of a cached prefix the far end is evicted before what it follows.
        for block in reversed(blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                (self._cached if block in self.prefixes else self._free)[block] = None
        self.changes += 1

    def _next(self, wanted: int) -> int:
        if wanted in self._free:
            del self._free[wanted]
            return wanted
        if self._free:
            return self._free.popitem()[0]
        block = self._cached.popitem(last=False)[0]
        self.prefixes.forget(block)
        self.evictions += 1
        return block

    def register(self, key: bytes, block: int) -> None:
        """Let a full block be found by its prefix, unless there is one with the same."""
        self.changes += self.prefixes.register(key, block)

    def forget_prefixes(self) -> None:
        """What cached blocks hold is worth nothing any more. Nobody may hold a block."""
        self._free.update(self._cached)
        self._cached.clear()
        self.prefixes = PrefixTable()
        self.changes += 1

    def is_private(self, block: int) -> bool:
        """Whether a block has one holder and can't be found by others."""
        return self._holders[block] == 1 and block not in self.prefixes

    def check_integrity(self, held: Iterable[Sequence[int]]) -> None:
        """Assert that `held`, the blocks of each sequence, and the pool's own books agree."""
        self.prefixes.check_integrity()
        count = Counter(block for blocks in held for block in blocks)
        assert all(self._holders[b] == count[b] for b in range(self.num_blocks)), "a holder is miscounted"
        everything = [*self._free, *self._cached, *count]
        assert sorted(everything) == list(range(1, self.num_blocks)), "a KV block is leaked or owned twice"
        assert all(block in self.prefixes for block in self._cached), "a cached block can't be found"
        assert not any(block in self.prefixes for block in self._free), "a free block can still be found"
