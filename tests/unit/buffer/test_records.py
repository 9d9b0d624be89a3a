from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_draft.buffer.records import UnknownSchema, decode, encode, tenant_of
from online_draft.core import Interaction
from online_draft.errors import StoreError
from online_draft.store.packing import pack, unpack

Make = Callable[..., Interaction]

token_ids = st.lists(st.integers(0, 2**32 - 1), max_size=40).map(tuple)
interactions = st.builds(
    Interaction,
    target=st.text(max_size=40),
    tenant=st.text(max_size=20),
    segment=st.text(max_size=20),
    prompt_ids=token_ids,
    output_ids=token_ids,
    temperature=st.floats(0, 1e9),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=st.integers(0, 2**31),
    seed=st.integers(-(2**63), 2**64 - 1),
    prompt_index=st.integers(0, 1000),
    choice_index=st.integers(0, 1000),
    accepted_lengths=st.just(()),
    tried=st.lists(st.integers(5, 2**20), max_size=6).map(tuple),
    accepted=st.just(()),
    drafter_version=st.text(max_size=20),
    finished_at_ms=st.integers(0, 2**50),
)


@given(interactions, st.randoms(use_true_random=False))
def test_an_interaction_survives_encoding(interaction: Interaction, rng: random.Random) -> None:
    lengths = []
    while sum(lengths) < len(interaction.output_ids):
        lengths.append(rng.randint(1, len(interaction.output_ids) - sum(lengths)))
    accepted = tuple(rng.randint(0, tried) for tried in interaction.tried)
    whole = replace(interaction, accepted_lengths=tuple(lengths), accepted=accepted)
    assert decode(encode(whole)) == whole


def test_a_logged_token_costs_at_most_six_bytes(make_interaction: Make) -> None:
    rng = random.Random(0)
    for prompt, output in ((20, 20), (30, 60), (60, 120), (400, 300)):
        record = make_interaction(
            prompt_ids=tuple(rng.randrange(2048) for _ in range(prompt)),
            output_ids=tuple(rng.randrange(2048) for _ in range(output)),
            accepted_lengths=(1,) * output,
            tried=(output,) * 5,
            accepted=(output // 2,) * 5,
            seed=2**63,
            drafter_version="v0012-0123abcd",
        )
        per_token = len(encode(record)) / (prompt + output)
        assert per_token <= (6 if prompt + output < 100 else 4), (prompt, output, per_token)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"accepted_lengths": (3, 3)}, "sum to the number of output_ids"),
        ({"accepted_lengths": (5, 0)}, "accepted_lengths must be >= 1"),
        ({"accepted": (1, 1)}, "equally long"),
        ({"accepted": (3, 1, 0)}, "at most tried"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": -0.5}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"prompt_index": -1}, "prompt_index"),
        ({"choice_index": -1}, "choice_index"),
        ({"finished_at_ms": -1}, "finished_at_ms"),
        ({"prompt_ids": (2**32,)}, "can't be packed"),
        ({"seed": 2**64}, "can't be packed"),
    ],
)
def test_an_interaction_that_contradicts_itself_is_refused(
    make_interaction: Make, changes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(StoreError, match=rule):
        encode(make_interaction(**changes))


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        (0, 2, "schema 2"),
        (0, True, "schema True"),
        (1, b"x", "target is not text"),
        (4, b"\x02abc", "prompt_ids"),
        (4, [1, 2], "prompt_ids"),
        (6, "hot", "temperature is not a number"),
        (8, 1.5, "top_k is not an integer"),
        (12, b"\x01\x09", "accepted_lengths"),
        (16, None, "finished_at_ms"),
    ],
)
def test_a_damaged_record_is_refused_by_field(
    make_interaction: Make, field: int, value: object, text: str
) -> None:
    raw = unpack(encode(make_interaction()), "record")
    assert isinstance(raw, list)
    raw[field] = value
    with pytest.raises(StoreError, match=text):
        decode(pack(raw))


@given(st.binary(max_size=60))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        decode(data)


def test_every_truncation_is_refused(make_interaction: Make) -> None:
    data = encode(make_interaction())
    for length in range(len(data)):
        with pytest.raises(StoreError):
            decode(data[:length])
    with pytest.raises(StoreError):
        decode(data + b"\0")
    with pytest.raises(StoreError, match="16 fields"):
        decode(pack(unpack(data, "")[:-1]))  # type: ignore[index]


def test_the_previous_schema_is_read(make_interaction: Make) -> None:
    raw = unpack(encode(make_interaction()), "record")
    assert isinstance(raw, list)
    assert decode(pack([0, *raw[1:]])) == make_interaction()


def test_no_text_is_in_a_record_but_names(make_interaction: Make) -> None:
    raw = unpack(encode(make_interaction()), "record")
    assert isinstance(raw, list)
    texts = [value for value in raw if isinstance(value, str)]
    assert texts == ["llama-0123456789abcdef-01234567", "default", "sql", "baseline"]


@given(interactions)
def test_the_tenant_is_read_without_the_rest(interaction: Interaction) -> None:
    lengths = (len(interaction.output_ids),) if interaction.output_ids else ()
    accepted = (0,) * len(interaction.tried)
    record = encode(replace(interaction, accepted_lengths=lengths, accepted=accepted))
    assert tenant_of(record) == interaction.tenant


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff", pack([1, "t", "a"]), pack([1, "t", 5, *range(14)])])
def test_what_is_no_record_has_no_tenant(data: bytes) -> None:
    with pytest.raises(StoreError):
        tenant_of(data)


def test_a_record_of_another_schema_is_told_from_a_damaged_one(make_interaction: Make) -> None:
    future = pack([9, *list(unpack(encode(make_interaction()), "record"))[1:]])  # type: ignore[call-overload]
    for read in (decode, tenant_of):
        with pytest.raises(UnknownSchema, match="schema 9"):
            read(future)
