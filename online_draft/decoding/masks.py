"""Token masks: which tokens may come next, as a grammar would say it.

Shapes: S sequences, N nodes of a tree, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from online_draft.decoding.drafting.candidates import Candidates


class TokenMask(Protocol):
    """A language over token ids. States are immutable values: a step asks about many continuations of one.

    Deterministic; `advance` is only called with tokens that `allowed` permits, and never behind an end.
    """

    def start(self, prompt_ids: tuple[int, ...]) -> Any:
        """The state before the first output token."""
        ...

    def advance(self, state: Any, token: int) -> Any:
        """The state behind `token`."""
        ...

    def allowed(self, state: Any) -> Tensor | None:
        """The tokens that may come next, bool [V] on any device; None: all of them.

        Where none may, the output is complete: the request ends with "stop". To let the target itself end
        a text that is complete, allow its end-of-text token.
        """
        ...


class MaskCursor:
    """Where one sequence stands in its mask."""

    def __init__(self, mask: TokenMask, prompt_ids: tuple[int, ...], stop_ids: frozenset[int]) -> None:
        self._mask = mask
        self._stop_ids = stop_ids
        self._state = mask.start(prompt_ids)
        self.allowed_V = mask.allowed(self._state)
        self.exhausted = self._none_allowed()
        """Whether no token may follow."""
        self._ended = self.exhausted

    def push(self, token: int) -> None:
        """Go on behind `token`. What follows an end is ignored: it is never committed."""
        if self._ended:
            return
        if token in self._stop_ids:
            self._ended = True
            return
        self._state = self._mask.advance(self._state, token)
        self.allowed_V = self._mask.allowed(self._state)
        self._ended = self.exhausted = self._none_allowed()

    def permitted(self, tokens: Sequence[int], parents: Sequence[int], valid: Sequence[bool]) -> list[bool]:
        """Which nodes of a tree below the newest token the mask permits; parents come before children."""
        states: dict[int, Any] = {-1: self._state}
        allowed: dict[int, Tensor | None] = {-1: self.allowed_V}
        kept = []
        for node, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
            keep = valid[node] and parent in states
            if keep:
                if parent not in allowed:
                    allowed[parent] = self._mask.allowed(states[parent])
                allowed_V = allowed[parent]
                keep = allowed_V is None or bool(allowed_V[token])
            if keep and token not in self._stop_ids:
                states[node] = self._mask.advance(states[parent], token)
            kept.append(keep)
        return kept

    def _none_allowed(self) -> bool:
        return self.allowed_V is not None and not bool(self.allowed_V.any())


def drop_forbidden(candidates: Candidates, cursors: Sequence[MaskCursor | None]) -> Candidates:
    """Strike out the nodes that their sequence's mask forbids, and those below them."""
    if all(cursor is None for cursor in cursors):
        return candidates
    values = list(candidates.values)
    for row, cursor in enumerate(cursors):
        if cursor is not None:
            exists = [value > 0 for value in values[row]]
            allowed = cursor.permitted(candidates.tokens[row], candidates.parents[row], exists)
            values[row] = [value * keep for value, keep in zip(values[row], allowed, strict=True)]
    return replace(candidates, values=values)
