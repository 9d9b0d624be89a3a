"""Token ids to text, one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_REPLACEMENT = "\ufffd"
_LONGEST_CHARACTER = 8
"""Tokens after which an undecodable tail is shown as it is instead of being held back."""


class Detokenizer:
    """Incremental decoding that never shows half a character.

    Text is the difference of two decodings that share their first tokens, so that decoders which treat
    the first token apart (leading spaces) give the same text as decoding everything at once.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._decode = _decoder(tokenizer)
        self._ids: list[int] = []
        self._shown_from = 0
        self._pending_from = 0

    def push_all(self, token_ids: Sequence[int]) -> str:
        """`push` for several tokens: the same text in all, for the price of one."""
        shown = self._decode(self._ids[self._shown_from : self._pending_from])
        text = self._decode([*self._ids[self._shown_from :], *token_ids])
        if len(text) <= len(shown) or text.endswith(_REPLACEMENT):
            return "".join([self.push(token_id) for token_id in token_ids])
        self._ids += token_ids
        self._shown_from, self._pending_from = self._pending_from, len(self._ids)
        return text[len(shown) :]

    def push(self, token_id: int) -> str:
        """Text that `token_id` completes; empty while a character is unfinished."""
        self._ids.append(token_id)
        shown = self._decode(self._ids[self._shown_from : self._pending_from])
        text = self._decode(self._ids[self._shown_from :])
        held = len(self._ids) - self._pending_from
        if len(text) <= len(shown) or (text.endswith(_REPLACEMENT) and held < _LONGEST_CHARACTER):
            return ""
        self._shown_from, self._pending_from = self._pending_from, len(self._ids)
        return text[len(shown) :]

    def flush(self) -> str:
        """Whatever was held back, undecodable bytes as U+FFFD."""
        shown = self._decode(self._ids[self._shown_from : self._pending_from])
        text = self._decode(self._ids[self._shown_from :])
        self._shown_from = self._pending_from = len(self._ids)
        return text[len(shown) :]


def _decoder(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Token ids to text without special tokens: the tokenizer's own core where nothing is done around it."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None or getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""
    decode = core.decode
    return lambda ids: decode(ids, skip_special_tokens=True) if ids else ""


class StopMatcher:
    """Finds stop strings in a growing text and holds back what may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str, may_end: bool = True) -> tuple[str, bool]:
        """Text that is safe to show, and whether a stop string was completed (it is cut off).

        Without `may_end` none is completed by this text; one that begins in it may be later.
        """
        if not self._stops:
            return text, False
        scanned = len(self._held)
        self._held += text
        if may_end:
            places = (self._held.find(stop, max(0, scanned - len(stop) + 1)) for stop in self._stops)
            found = [at for at in places if at >= 0]
            if found:
                safe, self._held = self._held[: min(found)], ""
                return safe, True
        keep = max(self._overlap(stop) for stop in self._stops)
        safe, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return safe, False

    def flush(self) -> str:
        """The text held back, when generation ended for another reason."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, stop: str) -> int:
        """Length of the longest suffix of the held text that begins `stop`."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if stop.startswith(self._held[-length:]):
                return length
        return 0
