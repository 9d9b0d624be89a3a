"""Where an engine's outputs go: to event loops, with one wake-up per loop and step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol

from online_draft.core import StepOutput

logger = logging.getLogger(__name__)

Item = StepOutput | Exception


class Sink(Protocol):
    """Takes what the engine has for one or several requests, on its own event loop."""

    loop: asyncio.AbstractEventLoop

    def take(self, request_id: str, item: Item) -> None:
        """Called on `loop`, for all outputs of a step at once. An exception, or an output with a finish
        reason, is a request's last item."""
        ...


Handed = tuple[Sink, str, Item]


class RequestSink:
    """The sink of one request: a queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.items: asyncio.Queue[Item] = asyncio.Queue()

    def take(self, request_id: str, item: Item) -> None:
        """Queue it."""
        self.items.put_nowait(item)


def hand_over(items: Iterable[Handed]) -> None:
    """Give items to their sinks. From any thread; never blocks."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Handed]] = {}
    for handed in items:
        by_loop.setdefault(handed[0].loop, []).append(handed)
    for loop, batch in by_loop.items():
        try:
            loop.call_soon_threadsafe(_take, batch)
        except RuntimeError:
            logger.debug("an event loop is closed; %d outputs have no reader", len(batch))


def _take(batch: list[Handed]) -> None:
    for sink, request_id, item in batch:
        sink.take(request_id, item)
