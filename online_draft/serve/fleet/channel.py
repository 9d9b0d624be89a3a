"""The replica's end of what connects it with one ingress: one stream down, calls up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from online_draft.core import StepOutput
from online_draft.errors import OnlineDraftError
from online_draft.serve.fleet.messages import Downlink, Order, Refusal, ReplicaLoad, Uplink
from online_draft.serve.fleet.transcript import Transcript
from online_draft.serve.sinks import Item

WINDOW = 64
"""Messages that may be on their way unread; beyond it outputs are collected into fewer, larger ones."""
STALLED_S = 0.05
"""How long such a message waits, at most."""
SPACING_S = 0.005
"""Steps that come faster share messages, each of which costs more than what is in it. A request's first and
last output wait for nothing."""
LAZY_S = 0.25
"""How long outputs that nobody reads along may wait for company."""
MESSAGES = 1_000
"""Messages of one stream: Ray keeps something of each until the stream ends."""
LEASE_S = 15.0
"""An ingress that says nothing for so long is gone."""


class Channel:
    """Collects what the engine has for one ingress; the sink of all its requests. Lives on one event loop.

    `start(request_id, order, channel)` and `stop(request_id, channel)` reach the engine, `finished` is
    told what remains of each finished request, `load` is asked with every message.
    """

    def __init__(
        self,
        start: Callable[[Order, Channel], None],
        stop: Callable[[str, Channel], None],
        finished: Callable[[Transcript, StepOutput], None],
        load: Callable[[], ReplicaLoad],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._start = start
        self._stop = stop
        self._finished = finished
        self._load = load
        self._clock = clock
        self._running: dict[str, Transcript] = {}
        self._live: set[str] = set()
        self._items: list[StepOutput | Refusal] = []
        self._ready = asyncio.Event()
        self._sent = self._read = 0
        self._sent_at = -SPACING_S
        self._urgent = asyncio.Event()
        self._heard = clock()
        self.closed = False
        self._look_at_lease()

    @property
    def requests(self) -> int:
        """Requests of this ingress that aren't finished."""
        return len(self._running)

    def up(self, message: Uplink) -> None:
        """What the ingress said."""
        self._heard = self._clock()
        self._read = max(self._read, message.read)
        for order in message.orders:
            name = order.request.request_id
            self._running[name] = Transcript(order.request, order.lengths)
            if order.live:
                self._live.add(name)
            try:
                self._start(order, self)
            except OnlineDraftError as error:
                self.take(name, error)
        for name in message.cancelled:
            if self._drop(name) is not None:
                self._stop(name, self)
        self._ready.set()

    def take(self, request_id: str, item: Item) -> None:
        """What the engine has for a request: `sinks.Sink`."""
        transcript = self._running.get(request_id)
        if transcript is None:
            return
        live = request_id in self._live
        if live and (isinstance(item, Exception) or item.finish_reason is not None or transcript.begins):
            self._urgent.set()
        if not live and not self._items:
            self.loop.call_later(LAZY_S, self._ready.set)
        if isinstance(item, Exception):
            self._drop(request_id)
            self._items.append(Refusal(request_id, item))
        else:
            transcript.add(item)
            if item.finish_reason is not None:
                self._drop(request_id)
                self._finished(transcript, item)
            self._items.append(item)
        if live or request_id not in self._running:
            self._ready.set()

    async def down(self) -> AsyncGenerator[Downlink, None]:
        """Messages as long as the ingress is there, the first one at once. Closing it cancels all requests,
        but not its end behind a `last` message: then `down` is to be called again."""
        sent, last = 1, False
        try:
            yield self._message()
            while not self.closed and not last:
                await self._ready.wait()
                if self._sent - self._read >= WINDOW:
                    await self._reader()
                await self._space()
                self._ready.clear()
                if self._items:
                    sent += 1
                    last = sent >= MESSAGES
                    yield self._message(last)
        finally:
            if not last:
                self.close()

    def close(self) -> None:
        """Cancel what still runs. Idempotent."""
        self.closed = True
        self._ready.set()
        self._urgent.set()
        for name in list(self._running):
            self._drop(name)
            self._stop(name, self)

    def _message(self, last: bool = False) -> Downlink:
        items, self._items = tuple(self._items), []
        self._sent += 1
        self._sent_at = self._clock()
        self._urgent.clear()
        return Downlink(items, self._load(), last)

    def _drop(self, name: str) -> Transcript | None:
        self._live.discard(name)
        return self._running.pop(name, None)

    def _look_at_lease(self) -> None:
        if self._clock() - self._heard >= LEASE_S:
            self.close()
        if not self.closed:
            self.loop.call_later(LEASE_S / 4, self._look_at_lease)

    async def _space(self) -> None:
        """Until the last message is `SPACING_S` ago, or something is urgent."""
        left = self._sent_at + SPACING_S - self._clock()
        if left > 0 and not self.closed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), left)

    async def _reader(self) -> None:
        """The ingress is behind: until it has read, or for a moment."""
        until = self._clock() + STALLED_S
        self.loop.call_later(STALLED_S, self._ready.set)
        while self._sent - self._read >= WINDOW and self._clock() < until:
            self._ready.clear()
            await self._ready.wait()
