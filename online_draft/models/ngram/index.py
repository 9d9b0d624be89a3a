"""Where contexts occurred in a text: a trie over reversed contexts that grows and shrinks with the text."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from operator import itemgetter

EDGE = -1
"""Stands before a text and between two; no token id, so that no match and no continuation crosses it."""
BEHIND = 1
"""Matches this much shorter than the longest one are still looked at; what is behind them hardly counts."""
_FAN = 1 << 24
"""Above every token id: a child's key is `node * _FAN + token`."""
_CHUNK = 64
"""Tokens that are evicted at least at once."""

Continuation = tuple[int, tuple[int, ...], int]
"""Length of a match, what followed there (from an EDGE on, nothing), the index's source."""

_by_match = itemgetter(0)


class ContextIndex:
    """The last `capacity` tokens of one or several texts, and where each context in them occurred.

    The context of a position is what stands before it, at most `longest` tokens. Positions whose contexts
    begin alike share a node; when they become more than `recent`, each moves on to a node below, by its next
    token back, and the node keeps the latest. So to add, remove or look up takes time in proportion to the
    longest match, whatever is stored, and the longest match is always found. Source: SAM decoding's longest
    suffix, with a trie that can evict in place of the automaton.
    """

    def __init__(self, longest: int, recent: int, capacity: int, source: int) -> None:
        self.evicted = 0
        """Tokens that had to make room since the start."""
        self._longest = longest
        self._width = recent
        self._capacity = capacity
        self._source = source
        self._blank = array("q", [0] * self._width)
        self._clear()

    def _clear(self) -> None:
        self.tokens: list[int] = [EDGE]
        self._base = 0
        """Position of the first token that is held."""
        self._oldest = 1
        """The first position where a continuation may start."""
        # By node and next token back: a node, or ~position where there is only one. The root is 0.
        self._children: dict[int, int] = {}
        self._counts: list[int] = [0]
        self._recent = array("q", self._blank)
        self._free: list[int] = []

    @property
    def places(self) -> range:
        """Indices of `tokens` where a continuation may start; what comes first is only context."""
        return range(self._oldest - self._base, len(self.tokens))

    @property
    def bytes(self) -> int:
        """Memory held, about: containers and the numbers in them."""
        containers = (self.tokens, self._children, self._counts, self._recent)
        return sum(map(sys.getsizeof, containers)) + 32 * (len(self._children) + 2 * len(self.tokens))

    def extend(self, tokens: Sequence[int], context: int = 0) -> None:
        """Go on with the text; the oldest tokens make room. The first `context` tokens are never proposed."""
        fits = self._capacity - 2
        if len(tokens) > fits:
            self.evicted += len(tokens) - fits
            context = max(0, context - (len(tokens) - fits))
            tokens = tokens[-fits:]
        if len(self.tokens) + len(tokens) > self._capacity:
            self._evict(len(self.tokens) + len(tokens) - self._capacity)
        start = len(self.tokens) + context
        self.tokens += tokens
        for place in range(start, len(self.tokens)):
            self._add(place)

    def end(self) -> None:
        """The text ends here; what follows is another one."""
        if len(self.tokens) == self._capacity:
            self._evict(1)
        self.tokens.append(EDGE)

    def find(self, text: Sequence[int], least: int, wanted: int, depth: int) -> list[Continuation]:
        """What followed the longest contexts that `text` ends with, `depth` tokens at most.

        `text` is an index's `tokens`. Up to `wanted` occurrences (not more than `recent`) of `least` tokens
        or more, longest match first, then newest; those more than BEHIND behind the longest don't count.
        """
        children, counts, tokens, base = self._children, self._counts, self.tokens, self._base
        path: list[int] = []
        node = 0
        place = len(text)
        last = place - self._longest
        while place > last:
            place -= 1
            token = text[place]
            node = children.get(node * _FAN + token, 0) if token >= 0 else 0
            if node <= 0 or counts[node] <= self._width:
                break
            path.append(node)
        match = len(path)
        if node < 0:
            alike = self._compare(text, [~node], match + 1)
        elif node and counts[node] <= self._width:
            alike = self._compare(text, self._latest(node), match + 1)
        else:
            alike = []
        least = max(least, (alike[0][0] if alike else match) - BEHIND)
        found: list[Continuation] = []
        for longer, at in alike:
            if longer < least:
                return found
            at -= base
            found.append((longer, tuple(tokens[at : at + min(depth, 2 * longer + 2)]), self._source))
        seen = [at for _, at in alike]
        oldest = self._oldest
        while match >= least and len(found) < wanted:
            node = path[match - 1]
            if counts[node] > len(seen):
                reach = min(depth, 2 * match + 2)
                for at in self._latest(node):
                    if at < oldest or len(found) == wanted:
                        break
                    if at not in seen:
                        seen.append(at)
                        at -= base
                        found.append((match, tuple(tokens[at : at + reach]), self._source))
            match -= 1
        return found

    def _compare(self, text: Sequence[int], positions: list[int], match: int) -> list[tuple[int, int]]:
        """How far back `text`'s end and the contexts of positions agree, which is at least `match`.

        (match, position), longest first; evicted positions are left out.
        """
        tokens, longest, oldest = self.tokens, self._longest, self._oldest
        end = len(text) - 1
        whole = text[-longest:]
        full = len(whole) == longest and EDGE not in whole
        compared = []
        for at in positions:
            if at >= oldest:
                place = at - self._base
                alike = match
                if full and tokens[place - longest : place] == whole:
                    alike = longest
                while alike < longest and tokens[place - alike - 1] == text[end - alike] >= 0:
                    alike += 1
                compared.append((alike, at))
        if len(compared) > 1:
            compared.sort(key=_by_match, reverse=True)
        return compared

    def _latest(self, node: int) -> list[int]:
        """A node's positions, newest first; evicted ones may be among the last."""
        count, start = self._counts[node], node * self._width
        if count <= self._width:
            return self._recent[start : start + count].tolist()[::-1]
        turn = start + count % self._width
        return (self._recent[turn : start + self._width] + self._recent[start:turn]).tolist()[::-1]

    def _add(self, place: int) -> None:
        """Enter the context of the token at this place."""
        tokens, children, counts, width = self.tokens, self._children, self._counts, self._width
        at = place + self._base
        last = place - self._longest
        node = 0
        while place > last:
            place -= 1
            token = tokens[place]
            if token < 0:
                return
            key = node * _FAN + token
            child = children.get(key)
            if child is None:
                children[key] = ~at
                return
            if child < 0:
                children[key] = self._new_node(~child, at)
                return
            node = child
            count = counts[node]
            if count == width and place > last:
                self._branch(node, at - self._base - place)
            self._recent[node * width + count % width] = at
            counts[node] = count + 1
            if count < width:
                return

    def _branch(self, node: int, depth: int) -> None:
        """Give the positions of a node, whose contexts agree in `depth` tokens, places below it."""
        children, counts = self._children, self._counts
        for at in reversed(self._latest(node)):
            if at < self._oldest:
                continue
            token = self.tokens[at - self._base - depth - 1]
            if token < 0:
                continue
            key = node * _FAN + token
            child = children.get(key)
            if child is None:
                children[key] = ~at
            elif child < 0:
                children[key] = self._new_node(~child, at)
            else:
                self._recent[child * self._width + counts[child]] = at
                counts[child] += 1

    def _new_node(self, old: int, new: int) -> int:
        """A node with two positions."""
        if self._free:
            node = self._free.pop()
            self._counts[node] = 2
        else:
            node = len(self._counts)
            self._counts.append(2)
            self._recent += self._blank
        self._recent[node * self._width] = old
        self._recent[node * self._width + 1] = new
        return node

    def _evict(self, tokens: int) -> None:
        """Remove at least this many of the oldest tokens. What stays at the front serves as context only."""
        tokens = max(tokens, min(_CHUNK, self._capacity // 4))
        if tokens + self._longest >= len(self.tokens):
            self.evicted += len(self.tokens) - 1
            self._clear()
            return
        for place in range(self._oldest - self._base, tokens + self._longest):
            self._remove(place)
        del self.tokens[:tokens]
        self._base += tokens
        self._oldest = self._base + self._longest
        self.evicted += tokens

    def _remove(self, place: int) -> None:
        """Undo `_add` for the oldest position; a node goes with its last one."""
        tokens, children, counts, width = self.tokens, self._children, self._counts, self._width
        at = place + self._base
        last = place - self._longest
        node = 0
        while place > last:
            place -= 1
            key = node * _FAN + tokens[place]
            child = children.get(key) if tokens[place] >= 0 else None
            if child is None:
                return
            if child < 0:
                if ~child == at:
                    del children[key]
                return
            node = child
            if self._recent[node * width + (counts[node] - 1) % width] == at:
                del children[key]
                self._free.append(node)
            if counts[node] <= self._width:
                return

    def check_integrity(self) -> None:
        """Assert that every node and entry can be reached and stands for a position that is held."""
        assert len(self.tokens) <= self._capacity, "more tokens are held than there is room for"
        newest = self._base + len(self.tokens)
        nodes = {0} | {child for child in self._children.values() if child >= 0}
        assert len(nodes) + len(self._free) == len(self._counts), "a node is leaked"
        assert nodes.isdisjoint(self._free), "a free node is in use"
        for key, child in self._children.items():
            assert key // _FAN in nodes, "an entry hangs below a node that is gone"
            position = ~child if child < 0 else self._latest(child)[0]
            assert self._oldest <= position < newest, "an evicted position can still be found"
