"""Events that are there together are sent together, in order, and none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from online_draft.serve.api.streams import together


async def source(queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    while (chunk := await queue.get()) is not None:
        yield chunk


async def test_chunks_that_are_there_are_joined_and_a_single_one_goes_at_once() -> None:
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    joined = together(source(queue))
    queue.put_nowait(b"a")
    assert await anext(joined) == b"a"
    for chunk in (b"b", b"c", b"d"):
        queue.put_nowait(chunk)
    assert await anext(joined) == b"bcd"
    queue.put_nowait(b"e")
    queue.put_nowait(None)
    assert [chunk async for chunk in joined] == [b"e"]


async def test_a_slow_reader_gets_everything_and_holds_the_source_back() -> None:
    made = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal made
        while made < 1_000:
            made += 1
            yield made.to_bytes(2, "big")

    joined = together(endless())
    got = await anext(joined)
    for _ in range(50):
        await asyncio.sleep(0)
    assert made < 200
    async for chunk in joined:
        got += chunk
    assert got == b"".join(number.to_bytes(2, "big") for number in range(1, 1_001))


async def test_what_the_source_raises_comes_behind_what_it_gave_and_closing_closes_it() -> None:
    closed = asyncio.Event()

    async def failing(fails: bool) -> AsyncIterator[bytes]:
        try:
            yield b"a"
            if fails:
                raise ValueError("late")
            await asyncio.Event().wait()
        finally:
            closed.set()

    joined = together(failing(True))
    assert await anext(joined) == b"a"
    with pytest.raises(ValueError, match="late"):
        await anext(joined)
    closed.clear()
    joined = together(failing(False))
    assert await anext(joined) == b"a"
    await joined.aclose()
    assert closed.is_set()
