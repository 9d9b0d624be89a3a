"""Log-probabilities in the shapes that clients know: chat, completion (OpenAI), prompt (vLLM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from online_draft.core import TokenLogprobs
from online_draft.serve.api.vocabulary import Piece, Vocabulary

FLOOR = -9999.0
"""Stands for minus infinity, which JSON can't say; as in vLLM."""


@dataclass(frozen=True, slots=True)
class LogprobShapes:
    """Puts tokens into words; with `as_ids` every one is called `token_id:ID` (vLLM's option)."""

    vocabulary: Vocabulary
    as_ids: bool = False

    def chat(self, entries: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """`choices[].logprobs` of a conversation."""
        content = []
        for entry in entries:
            top = [self._chat_token(token, value) for token, value in entry.top]
            content.append({**self._chat_token(entry.token_id, entry.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def completion(
        self,
        token_ids: Sequence[int],
        entries: Sequence[TokenLogprobs | None],
        offsets: Sequence[int],
        top: int,
    ) -> dict[str, Any]:
        """`choices[].logprobs` of a completion; `entries` go with `token_ids`, None for unknown ones."""
        return {
            "tokens": [self._legacy_name(token) for token in token_ids],
            "token_logprobs": [None if entry is None else _finite(entry.logprob) for entry in entries],
            "top_logprobs": [None if entry is None else self._legacy_top(entry, top) for entry in entries],
            "text_offset": list(offsets),
        }

    def prompt(self, entries: Sequence[TokenLogprobs | None], top: int) -> list[dict[str, Any] | None]:
        """vLLM's `prompt_logprobs`: at every place the prompt's token and the likeliest ones, by id."""
        return [None if entry is None else self._ranked(entry, top) for entry in entries]

    def _chat_token(self, token_id: int, logprob: float) -> dict[str, Any]:
        piece = self.vocabulary.piece(token_id)
        name = f"token_id:{token_id}" if self.as_ids else piece.text
        return {"token": name, "logprob": _finite(logprob), "bytes": list(piece.raw)}

    def _legacy_name(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self.as_ids else self.vocabulary.piece(token_id).legacy

    def _legacy_top(self, entry: TokenLogprobs, top: int) -> dict[str, float]:
        """The most likely tokens, and the chosen one if it isn't among them."""
        likely: dict[str, float] = {}
        for token, value in (*entry.top[:top], (entry.token_id, entry.logprob)):
            likely.setdefault(self._legacy_name(token), _finite(value))
        return likely

    def _ranked(self, entry: TokenLogprobs, top: int) -> dict[str, Any]:
        ranked = {entry.token_id: (entry.logprob, entry.rank)}
        for rank, (token, value) in enumerate(entry.top[:top], start=1):
            ranked.setdefault(token, (value, rank))
        return {
            str(token): {
                "logprob": _finite(value),
                "rank": rank,
                "decoded_token": _text(self.vocabulary.piece(token)),
            }
            for token, (value, rank) in ranked.items()
        }


def _text(piece: Piece) -> str:
    return piece.text if piece.readable else piece.raw.decode("utf-8", "replace")


def _finite(logprob: float) -> float:
    return max(logprob, FLOOR)
