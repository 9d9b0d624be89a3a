from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_draft.errors import ConfigError, StoreError
from online_draft.store import connect_redis
from online_draft.store.packing import pack, pack_ints, unpack, unpack_ints


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_integers_survive_packing(values: list[int]) -> None:
    assert unpack_ints(pack_ints(values), "values") == tuple(values)


@pytest.mark.parametrize(("top", "width"), [(0, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 4)])
def test_the_narrowest_width_is_used(top: int, width: int) -> None:
    assert len(pack_ints([top] * 10)) == 1 + 10 * width


@pytest.mark.parametrize("values", [[-1], [2**32], [1, -5]])
def test_integers_out_of_range_are_refused(values: list[int]) -> None:
    with pytest.raises(StoreError, match="can't be packed"):
        pack_ints(values)


@pytest.mark.parametrize("data", [b"", b"\x03abc", b"\x02abc", b"\x00", "text", None, [1]])
def test_damaged_integers_are_refused(data: object) -> None:
    with pytest.raises(StoreError, match="ids"):
        unpack_ints(data, "ids")


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x01", pack([1]) + b"x"])
def test_damaged_msgpack_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(StoreError, match="thing is not readable"):
        unpack(data, "thing")


@pytest.mark.parametrize("value", [object(), 2**64, {1, 2}])
def test_what_is_not_plain_data_is_refused(value: object) -> None:
    with pytest.raises(StoreError, match="can't be packed"):
        pack(value)


def test_a_redis_url_of_another_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="redis_url"):
        connect_redis("http://localhost:6379")
