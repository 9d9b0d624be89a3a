from __future__ import annotations

from dataclasses import replace

import pytest

from online_draft.buffer.books import Books, total
from online_draft.errors import StoreError
from online_draft.store.packing import pack

BOOKS = Books(20, 9, 4, 5, 7, 1_700_000_000_000, True, 2, 4000, 1000)


def test_books_survive_packing() -> None:
    assert Books.unpack(BOOKS.pack()) == BOOKS
    assert BOOKS.balanced and BOOKS.accepted == 13
    assert not replace(BOOKS, erased=1).balanced


def test_books_of_a_writer_that_cannot_erase_are_read() -> None:
    old = Books.unpack(pack([1, 20, 9, 4, 7, 3, 1_700_000_000_000, False]))
    assert old == Books(20, 9, 4, 7, 3, 1_700_000_000_000, False)


@pytest.mark.parametrize("raw", [[], [1] * 8, [1, 2, 3], [1] * 7 + [True, 1], [1] * 7 + [True, 1, 1, "x"], 7])
def test_damaged_books_are_refused(raw: object) -> None:
    with pytest.raises(StoreError, match="books"):
        Books.unpack(pack(raw))


def test_the_sum_balances() -> None:
    both = total({"a": BOOKS, "b": replace(BOOKS, closed=False, at_ms=5)})
    assert both.balanced and (both.produced, both.erased, both.bytes) == (40, 4, 8000)
    assert not both.closed and both.at_ms == BOOKS.at_ms
