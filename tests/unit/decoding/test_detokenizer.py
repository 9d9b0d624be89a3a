"""Text out of tokens: whole characters only, stop strings cut off."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from online_draft.decoding.detokenizer import Detokenizer, StopMatcher


def byte_tokenizer() -> Tokenizer:
    """One token per byte: the hardest case for character boundaries."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    state = {"type": "BPE", "vocab": {c: i for i, c in enumerate(alphabet)}, "merges": []}
    tokenizer = Tokenizer(models.BPE(vocab=state["vocab"], merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    assert json.loads(tokenizer.to_str())["model"]["type"] == "BPE"
    return tokenizer


TOKENIZER = byte_tokenizer()


def bytes_to_unicode() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(256)]


@given(st.text(max_size=40))
def test_pieces_join_to_the_text_and_never_split_a_character(text: str) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(i) for i in TOKENIZER.encode(text).ids]
    assert all("\ufffd" not in piece or "\ufffd" in text for piece in pieces)
    assert "".join(pieces) + detokenizer.flush() == text


@given(st.binary(max_size=60), st.lists(st.integers(1, 6), min_size=1), st.booleans())
def test_tokens_pushed_together_give_the_text_of_tokens_pushed_one_by_one(
    content: bytes, sizes: list[int], wrapped: bool
) -> None:
    """Any bytes, also such as never become a character."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER) if wrapped else TOKENIZER
    vocabulary = bytes_to_unicode()
    ids = [TOKENIZER.token_to_id(vocabulary[byte]) for byte in content]
    one, many = Detokenizer(tokenizer), Detokenizer(tokenizer)
    start, pieces, expected = 0, [], []
    for size in sizes:
        taken = ids[start : start + size]
        start += size
        if taken:
            pieces.append(many.push_all(taken))
        expected += [one.push(token) for token in taken]
    assert "".join(pieces) + many.flush() == "".join(expected) + one.flush()


def test_an_unfinished_character_is_held_back_and_flushed_as_a_replacement() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    first, *_ = TOKENIZER.encode("€").ids
    assert detokenizer.push(first) == ""
    assert detokenizer.flush() == "\ufffd"


def test_bytes_that_never_become_a_character_do_not_block_the_stream() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    continuation = TOKENIZER.encode("€").ids[1]
    text = "".join(detokenizer.push(continuation) for _ in range(20))
    assert "\ufffd" in text


@given(
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.text(alphabet="abc", max_size=3), max_size=12),
)
def test_stop_strings_are_found_across_pieces(stops: list[str], pieces: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown, whole, stopped = "", "", False
    for piece in pieces:
        whole += piece
        safe, stopped = matcher.push(piece)
        shown += safe
        assert not any(stop in shown for stop in stops)
        if stopped:
            break
    first = min((whole.find(stop) for stop in stops if stop in whole), default=None)
    assert stopped == (first is not None)
    if first is None:
        assert shown + matcher.flush() == whole
    else:
        assert shown == whole[:first]


@pytest.mark.parametrize(("text", "shown"), [("a\nU", "a"), ("a\nb", "a\nb"), ("\nUs", "")])
def test_a_possible_beginning_of_a_stop_string_is_held_back(text: str, shown: str) -> None:
    assert StopMatcher(["\nUser"]).push(text) == (shown, False)
