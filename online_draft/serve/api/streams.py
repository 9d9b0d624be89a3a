"""Streams: the sequences of one call merged into one, server-sent events, clients that go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from online_draft.core import TARGET_UPDATED, StepOutput
from online_draft.serve.api.backend import Backend
from online_draft.serve.api.choice import Choice
from online_draft.serve.api.errors import ApiError

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
_QUEUE_STEPS = 64


def event(payload: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def complete_choices(backend: Backend, choices: list[Choice]) -> None:
    """Run all choices to their end. Errors as `run_choices`; cancelling it cancels every sequence."""
    tasks = [asyncio.create_task(backend.complete(choice.request)) for choice in choices]
    try:
        for outputs, choice in zip(await asyncio.gather(*tasks), choices, strict=True):
            for output in outputs:
                _take(choice, output)
        _check_finished(choices)
    finally:
        await _cancel(*tasks)


async def run_choices(backend: Backend, choices: list[Choice]) -> AsyncIterator[tuple[int, StepOutput]]:
    """Steps of all choices as they come, each already added to its choice.

    Raises what the backend raised, or ApiError for a sequence that ended in an error. Closing it
    cancels every sequence that still runs.
    """
    steps = _one(backend, choices[0]) if len(choices) == 1 else _many(backend, choices)
    try:
        async for index, output in steps:
            yield index, _take(choices[index], output)
        _check_finished(choices)
    finally:
        await close(steps)


def _take(choice: Choice, output: StepOutput) -> StepOutput:
    """Add a step to its choice. A sequence that its own deadline, or an update of the target, ended is an
    answer, cut short."""
    meant = choice.request.deadline_s is not None or output.error == TARGET_UPDATED
    cut = output.finish_reason == "abort" and meant
    if output.finish_reason in ("error", "abort") and not cut:
        raise ApiError(500, output.error or "generation was aborted", code="generation_failed")
    return choice.take(output)


def _check_finished(choices: list[Choice]) -> None:
    if any(choice.finish_reason is None for choice in choices):
        raise ApiError(500, "generation ended early", code="generation_failed")


async def _one(backend: Backend, choice: Choice) -> AsyncIterator[tuple[int, StepOutput]]:
    stream = backend.generate(choice.request)
    try:
        async for output in stream:
            yield 0, output
    finally:
        await close(stream)


async def _many(backend: Backend, choices: list[Choice]) -> AsyncIterator[tuple[int, StepOutput]]:
    queue: asyncio.Queue[tuple[int, StepOutput | Exception | None]] = asyncio.Queue(_QUEUE_STEPS)

    async def pump(index: int, choice: Choice) -> None:
        stream = backend.generate(choice.request)
        try:
            async for output in stream:
                await queue.put((index, output))
            await queue.put((index, None))
        except Exception as error:
            await queue.put((index, error))
        finally:
            await close(stream)

    pumps = [asyncio.create_task(pump(index, choice)) for index, choice in enumerate(choices)]
    open_streams = len(pumps)
    try:
        while open_streams:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                open_streams -= 1
            else:
                yield index, item
    finally:
        await _cancel(*pumps)


async def close(iterator: AsyncIterator[Any]) -> None:
    """Close an async iterator if it can be closed."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Do the work, or cancel it and return None when the client goes away first."""
    task, watch = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await _cancel(task, watch)


async def together(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The chunks, joined where several come while the loop was not yet back at the reader."""
    ready: list[bytes] = []
    change = asyncio.Event()
    read = asyncio.Event()

    async def pump() -> None:
        try:
            async for chunk in chunks:
                ready.append(chunk)
                change.set()
                if len(ready) >= _QUEUE_STEPS:
                    read.clear()
                    await read.wait()
        finally:
            change.set()

    task = asyncio.create_task(pump())
    try:
        while ready or not task.done():
            await change.wait()
            change.clear()
            if ready:
                joined = b"".join(ready)
                ready.clear()
                read.set()
                yield joined
        task.result()
    finally:
        await _cancel(task)


class EventStream(Response):
    """A stream of server-sent events that is closed at once, on purpose, when the client goes away.

    Events that are there at the same time are sent together. Starlette's StreamingResponse leaves the closing
    of its iterator to garbage collection. `source` is what `events` reads from: it is closed too, since
    closing a generator that never started runs nothing.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        source: AsyncIterator[Any],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", **(headers or {})})
        del self.headers["content-length"]
        self._events = events
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until they end or the client is gone."""
        try:
            await unless_gone(receive, self._send(send))
        finally:
            await close(self._events)
            await close(self._source)

    async def _send(self, send: Send) -> None:
        with suppress(OSError):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(together(self._events)) as chunks:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
