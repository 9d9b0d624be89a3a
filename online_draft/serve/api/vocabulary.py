"""Tokens as clients read them: text, bytes, and where they begin in a text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from online_draft.decoding.detokenizer import Detokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Piece:
    """One token. `text` shows bytes that are no characters on their own as `\\xe2\\x82`, as OpenAI does."""

    text: str
    raw: bytes
    readable: bool

    @property
    def legacy(self) -> str:
        """The token's name on the older completions route."""
        return self.text if self.readable else "bytes:" + self.text


class Vocabulary:
    """What every token id stands for. Thread-safe but for a cache that only grows, to one entry per id."""

    def __init__(self, tokenizer: Tokenizer, special_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special_ids = special_ids
        self._added_ids = frozenset(tokenizer.get_added_tokens_decoder())
        kinds = _decoder_kinds(tokenizer)
        self._byte_level = "ByteLevel" in kinds
        self._byte_fallback = "ByteFallback" in kinds
        self._metaspace = bool(kinds & {"Metaspace", "Replace"})
        self._pieces: dict[int, Piece] = {}

    def piece(self, token_id: int) -> Piece:
        """The token of an id; ids that the tokenizer doesn't know are called `token_id:ID`."""
        found = self._pieces.get(token_id)
        if found is None:
            found = self._pieces[token_id] = self._make(token_id)
        return found

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def name(self, token_id: int) -> str | None:
        """The token as the tokenizer's own vocabulary spells it."""
        name: str | None = self._tokenizer.id_to_token(token_id)
        return name

    def offsets(self, start: int = 0) -> Offsets:
        """A counter for a sequence whose first token begins at character `start`."""
        return Offsets(self._tokenizer, start)

    def _make(self, token_id: int) -> Piece:
        raw = self._bytes(token_id)
        if raw is None:
            return Piece(f"token_id:{token_id}", b"", True)
        try:
            return Piece(raw.decode("utf-8"), raw, True)
        except UnicodeDecodeError:
            return Piece("".join(f"\\x{byte:02x}" for byte in raw), raw, False)

    def _bytes(self, token_id: int) -> bytes | None:
        token = self.name(token_id)
        if token is None:
            return None
        if token_id in self._special_ids or token_id in self._added_ids:
            return token.encode("utf-8")
        if self._byte_level:
            return b"".join(_BYTES.get(character, character.encode("utf-8")) for character in token)
        byte = _BYTE_TOKEN.fullmatch(token) if self._byte_fallback else None
        if byte is not None:
            return bytes([int(byte.group(1), 16)])
        if self._metaspace:
            return token.replace("▁", " ").encode("utf-8")
        return self.decode([token_id], skip_special_tokens=False).encode("utf-8")


class Offsets:
    """Where tokens begin, in characters, in the text that they make together."""

    def __init__(self, tokenizer: Tokenizer, start: int) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._length = start

    def push(self, ids: Sequence[int]) -> list[int]:
        """Where each of these further tokens begins; one inside a character begins where that does."""
        starts = []
        for token_id in ids:
            starts.append(self._length)
            self._length += len(self._detokenizer.push(token_id))
        return starts


def _decoder_kinds(tokenizer: Tokenizer) -> set[str]:
    """The types in the tokenizer's decoder, which may be a sequence of decoders."""
    if tokenizer.decoder is None:
        return set()
    state = json.loads(tokenizer.decoder.__getstate__())
    return {part["type"] for part in (state, *state.get("decoders", ()))}


def _byte_characters() -> dict[str, bytes]:
    """The characters by which byte-level BPE spells bytes (Radford et al. 2019): printable ones stand for
    themselves, the rest is counted up from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    spelled = {byte: chr(byte) for byte in printable} | {
        byte: chr(0x100 + place) for place, byte in enumerate(rest)
    }
    return {character: bytes([byte]) for byte, character in spelled.items()}


_BYTES = _byte_characters()
