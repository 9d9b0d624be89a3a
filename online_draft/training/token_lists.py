"""Many short lists of token ids in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import overload


class TokenLists(Sequence[tuple[int, ...]]):
    """A sequence of tuples of token ids, four bytes an id; grows at the end only."""

    def __init__(self, lists: Iterable[Sequence[int]] = ()) -> None:
        self._tokens = array("i")
        self._ends = array("q", [0])
        for tokens in lists:
            self.append(tokens)

    def append(self, tokens: Sequence[int]) -> None:
        """Add one list."""
        self._tokens.extend(tokens)
        self._ends.append(len(self._tokens))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[int, ...]]: ...

    def __getitem__(self, index: int | slice) -> tuple[int, ...] | Sequence[tuple[int, ...]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return tuple(self._tokens[self._ends[index] : self._ends[index + 1]])
