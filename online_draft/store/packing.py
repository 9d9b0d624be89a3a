"""Data only: msgpack in and out, and lists of small integers as tight bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgpack

from online_draft.errors import StoreError

_FORMATS = {1: "B", 2: "H", 4: "I"}


def pack(value: object) -> bytes:
    """msgpack bytes of plain data (None, bool, int, float, str, bytes, list, tuple, dict).

    StoreError for anything else and for integers beyond 64 bits.
    """
    try:
        packed = msgpack.packb(value, use_bin_type=True)
    except (ValueError, TypeError, OverflowError) as error:
        raise StoreError(f"can't be packed: {error}") from error
    assert isinstance(packed, bytes)
    return packed


def unpack(data: bytes, what: str) -> object:
    """Inverse of `pack`; lists come back as lists. StoreError naming `what` when `data` isn't msgpack."""
    try:
        value: object = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise StoreError(f"{what} is not readable: {str(error) or type(error).__name__}") from error
    return value


def pack_ints(values: Sequence[int]) -> bytes:
    """Integers in [0, 2**32) as little-endian 1, 2 or 4 bytes each, one leading byte telling the width.

    Raises StoreError for a value outside that range.
    """
    top = max(values, default=0)
    width = 1 if top < 1 << 8 else 2 if top < 1 << 16 else 4
    try:
        return struct.pack(f"<B{len(values)}{_FORMATS[width]}", width, *values)
    except struct.error as error:
        raise StoreError(f"integers can't be packed: {error}") from error


def unpack_ints(data: object, what: str) -> tuple[int, ...]:
    """Inverse of `pack_ints`. StoreError naming `what` for a wrong type, width or length."""
    if not isinstance(data, bytes) or not data:
        raise StoreError(f"{what} is not packed integers")
    width = data[0]
    count, rest = divmod(len(data) - 1, width) if width in _FORMATS else (0, 1)
    if rest:
        raise StoreError(f"{what}: {len(data)} bytes of width {width} are not packed integers")
    return struct.unpack_from(f"<{count}{_FORMATS[width]}", data, 1)
