"""An interaction as bytes: a msgpack list, token ids packed to 1, 2 or 4 bytes. No text in it.

About 2 bytes a token for vocabularies below 65,536, 4 above, 1 a step, and 100 to 150 once a record.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import cast

import msgpack

from online_draft.core import SCHEMA_VERSION, GenerationRequest, Interaction
from online_draft.errors import StoreError
from online_draft.store.packing import pack, pack_ints, unpack, unpack_ints

SCHEMAS = (SCHEMA_VERSION - 1, SCHEMA_VERSION)
_FIELDS = 17


class UnknownSchema(StoreError):
    """A record that other code wrote, earlier or later."""


def record_of(
    request: GenerationRequest,
    target: str,
    output_ids: Sequence[int],
    accepted_lengths: Sequence[int],
    tried: Sequence[int],
    accepted: Sequence[int],
    drafter_version: str,
) -> Interaction:
    """What remains of a request that was served by `target` and has ended now."""
    sampling = request.sampling
    return Interaction(
        target=target,
        tenant=request.tenant,
        segment=request.segment,
        prompt_ids=request.prompt_ids,
        output_ids=tuple(output_ids),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        prompt_index=request.prompt_index,
        choice_index=request.choice_index,
        accepted_lengths=tuple(accepted_lengths),
        tried=tuple(tried),
        accepted=tuple(accepted),
        drafter_version=drafter_version,
        finished_at_ms=time.time_ns() // 1_000_000,
    )


def encode(interaction: Interaction) -> bytes:
    """Bytes of one interaction. StoreError when it contradicts itself (see `check`) or an id is ≥ 2**32."""
    check(interaction)
    return pack(
        [
            SCHEMA_VERSION,
            interaction.target,
            interaction.tenant,
            interaction.segment,
            pack_ints(interaction.prompt_ids),
            pack_ints(interaction.output_ids),
            _small(interaction.temperature),
            _small(interaction.top_p),
            interaction.top_k,
            interaction.seed,
            interaction.prompt_index,
            interaction.choice_index,
            pack_ints(interaction.accepted_lengths),
            pack_ints(interaction.tried),
            pack_ints(interaction.accepted),
            interaction.drafter_version,
            interaction.finished_at_ms,
        ]
    )


def decode(data: bytes) -> Interaction:
    """Strict inverse of `encode`; also reads the previous schema. StoreError says what is wrong."""
    raw = unpack(data, "record")
    if not isinstance(raw, list) or not raw:
        raise StoreError("record is not a list")
    _check_schema(raw[0])
    if len(raw) != _FIELDS:
        raise StoreError(f"record has {len(raw)} fields, expected {_FIELDS}")
    interaction = Interaction(
        target=_text(raw[1], "target"),
        tenant=_text(raw[2], "tenant"),
        segment=_text(raw[3], "segment"),
        prompt_ids=unpack_ints(raw[4], "record: prompt_ids"),
        output_ids=unpack_ints(raw[5], "record: output_ids"),
        temperature=_number(raw[6], "temperature"),
        top_p=_number(raw[7], "top_p"),
        top_k=_integer(raw[8], "top_k"),
        seed=_integer(raw[9], "seed"),
        prompt_index=_integer(raw[10], "prompt_index"),
        choice_index=_integer(raw[11], "choice_index"),
        accepted_lengths=unpack_ints(raw[12], "record: accepted_lengths"),
        tried=unpack_ints(raw[13], "record: tried"),
        accepted=unpack_ints(raw[14], "record: accepted"),
        drafter_version=_text(raw[15], "drafter_version"),
        finished_at_ms=_integer(raw[16], "finished_at_ms"),
    )
    check(interaction)
    return interaction


def tenant_of(data: bytes) -> str:
    """Whose record this is, without reading the rest of it. StoreError when it isn't a record."""
    reader = msgpack.Unpacker(raw=False)
    reader.feed(data)
    try:
        if reader.read_array_header() != _FIELDS:
            raise StoreError(f"record doesn't have {_FIELDS} fields")
        schema, _target, tenant = reader.unpack(), reader.unpack(), reader.unpack()
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise StoreError(f"record is not readable: {str(error) or type(error).__name__}") from error
    _check_schema(schema)
    return _text(tenant, "tenant")


def check(interaction: Interaction) -> None:
    """Whether the counts fit the tokens and the parameters are in range. StoreError names the field."""
    rules = {
        "temperature must be finite and >= 0": (
            math.isfinite(interaction.temperature) and interaction.temperature >= 0
        ),
        "top_p must be in (0, 1]": 0 < interaction.top_p <= 1,
        "top_k must be >= 0": interaction.top_k >= 0,
        "prompt_index must be >= 0": interaction.prompt_index >= 0,
        "choice_index must be >= 0": interaction.choice_index >= 0,
        "finished_at_ms must be >= 0": interaction.finished_at_ms >= 0,
        "accepted_lengths must be >= 1 and sum to the number of output_ids": (
            min(interaction.accepted_lengths, default=1) >= 1
            and sum(interaction.accepted_lengths) == len(interaction.output_ids)
        ),
        "tried and accepted must be equally long": len(interaction.tried) == len(interaction.accepted),
        "accepted must be at most tried": all(
            accepted <= tried
            for tried, accepted in zip(interaction.tried, interaction.accepted, strict=False)
        ),
    }
    for rule, holds in rules.items():
        if not holds:
            raise StoreError(f"record: {rule}")


def _check_schema(schema: object) -> None:
    if type(schema) is not int or schema not in SCHEMAS:
        known = " and ".join(map(str, SCHEMAS))
        raise (UnknownSchema if type(schema) is int else StoreError)(
            f"record has schema {schema!r}; this code reads {known}"
        )


def _small(value: float) -> float | int:
    """Whole numbers cost one byte in msgpack, other floats nine; both come back exactly."""
    return int(value) if math.isfinite(value) and value == int(value) else value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise StoreError(f"record: {name} is not text")
    return value


def _integer(value: object, name: str) -> int:
    if type(value) is not int:
        raise StoreError(f"record: {name} is not an integer")
    return value


def _number(value: object, name: str) -> float:
    if type(value) not in (int, float):
        raise StoreError(f"record: {name} is not a number")
    return float(cast(float, value))
