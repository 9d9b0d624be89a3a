"""The replica's end of what connects it with one ingress: messages down, messages up."""

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

SPACING_S = 0.005
"""Steps that come faster share messages, each of which costs more than what is in it. A request's first and
last output wait for nothing."""
LAZY_S = 0.25
"""How long outputs that nobody reads along may wait for company."""
LEASE_S = 15.0
"""An ingress that says nothing for so long is gone."""


class Channel:
    """Collects what the engine has for one ingress; the sink of all its requests. Lives on one event loop.

    `start(request_id, order, channel)` and `stop(request_id, channel)` reach the engine, `finished` is
    told what remains of each finished request, `load` is asked with every message. Where nobody asks for the
    next message, the ingress being behind, outputs are collected in fewer and larger ones.
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
        self._steps: list[StepOutput] = []
        self._refusals: list[Refusal] = []
        self._answer = False
        self._ready = asyncio.Event()
        self._sent_at = -SPACING_S
        self._urgent = asyncio.Event()
        self._heard = clock()
        self._closed = asyncio.Event()
        self._look_at_lease()

    @property
    def requests(self) -> int:
        """Requests of this ingress that aren't finished."""
        return len(self._running)

    @property
    def closed(self) -> bool:
        """Whether its ingress is gone."""
        return self._closed.is_set()

    async def wait_closed(self) -> None:
        """Until it is."""
        await self._closed.wait()

    def up(self, message: Uplink) -> None:
        """What the ingress said. An answer goes down."""
        self._heard = self._clock()
        self._answer = True
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
        if not live and not self._steps:
            self.loop.call_later(LAZY_S, self._ready.set)
        if isinstance(item, Exception):
            self._drop(request_id)
            self._refusals.append(Refusal.of(request_id, item))
        else:
            transcript.add(item)
            if item.finish_reason is not None:
                self._drop(request_id)
                self._finished(transcript, item)
            self._steps.append(item)
        if live or request_id not in self._running:
            self._ready.set()

    async def down(self) -> AsyncGenerator[Downlink, None]:
        """Messages as long as the ingress is there, the first one at once. Its end cancels all requests."""
        try:
            yield self._message()
            while not self.closed:
                await self._ready.wait()
                await self._space()
                self._ready.clear()
                if self._steps or self._refusals or self._answer:
                    yield self._message()
        finally:
            self.close()

    def close(self) -> None:
        """Cancel what still runs. Idempotent."""
        self._closed.set()
        self._ready.set()
        self._urgent.set()
        for name in list(self._running):
            self._drop(name)
            self._stop(name, self)

    def _message(self) -> Downlink:
        message = Downlink(tuple(self._steps), tuple(self._refusals), self._load())
        self._steps.clear()
        self._refusals.clear()
        self._answer = False
        self._sent_at = self._clock()
        self._urgent.clear()
        return message

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
                async with asyncio.timeout(left):
                    await self._urgent.wait()
