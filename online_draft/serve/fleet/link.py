"""The ingress's end of what connects it with one replica: a stream that says where, and a connection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, cast

import msgspec
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from online_draft.core import StepOutput
from online_draft.errors import OnlineDraftError
from online_draft.serve.fleet.messages import Address, Downlink, Order, ReplicaLoad, Uplink
from online_draft.serve.fleet.wire import Wire, WireError

logger = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
_downlink = msgspec.msgpack.Decoder(Downlink)

Inbox = asyncio.Queue[StepOutput | Exception]
State = Literal["opening", "open", "draining", "closed"]


class ReplicaLost(OnlineDraftError):
    """A replica can't finish a request any more. `moved` where that was meant, as it is about to end."""

    def __init__(self, message: str, moved: bool = False) -> None:
        super().__init__(message)
        self.moved = moved


class Link:
    """All requests of this ingress that one replica works on. Lives on one event loop.

    `start` opens it; `changed` is called with every change of `state`. A stream or a connection that ends, or
    an answer that takes longer than `hang_after_s`, means that the replica is lost: every inbox then gets
    `ReplicaLost`, and the link is closed for good. While `draining` it takes no orders and closes itself
    behind the last one.
    """

    def __init__(
        self,
        name: str,
        handle: DeploymentHandle[Any],
        changed: Callable[[Link], None],
        hang_after_s: float = 30.0,
    ) -> None:
        self.name = name
        self._hang_after_s = hang_after_s
        self.state: State = "opening"
        self.load = ReplicaLoad()
        self._handle = handle
        self._changed = changed
        self._inboxes: dict[str, Inbox] = {}
        self._others = 0
        self._orders: list[Order] = []
        self._cancelled: list[str] = []
        self.reason = ""
        """Why it is closed."""
        self._speak = asyncio.Event()
        self._asked_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def requests(self) -> int:
        """Requests of this ingress that run there or wait."""
        return len(self._inboxes)

    @property
    def pressure(self) -> float:
        """As `ReplicaLoad.pressure`, with what this ingress has sent since."""
        return max((self._others + len(self._inboxes)) / self.load.slots, self.load.kv)

    def start(self) -> None:
        """Open it. Doesn't block."""
        self._task = asyncio.create_task(self._run())

    def send(self, order: Order) -> Inbox:
        """Give the replica a request; what comes of it arrives in the inbox, an exception as its last item.

        ReplicaLost when the link isn't open.
        """
        if self.state != "open":
            raise ReplicaLost(f"replica {self.name} is {self.state}")
        inbox: Inbox = asyncio.Queue()
        self._inboxes[order.request.request_id] = inbox
        self._orders.append(order)
        self._speak.set()
        return inbox

    def cancel(self, request_id: str) -> None:
        """Forget a request. Idempotent; also for one that has finished."""
        if self._inboxes.pop(request_id, None) is not None:
            self._cancelled.append(request_id)
            self._speak.set()
            self._end_if_drained()

    def drain(self) -> None:
        """Take no orders any more; close when nothing runs."""
        if self.state in ("opening", "open"):
            self._turn("draining")
            self._end_if_drained()

    def close(self, reason: str, moved: bool = False) -> None:
        """End it; what ran there is lost, or to be moved. Idempotent."""
        if self.state == "closed":
            return
        self.reason = reason
        inboxes, self._inboxes = self._inboxes, {}
        if self._task is not None:
            self._task.cancel()
        for inbox in inboxes.values():
            inbox.put_nowait(ReplicaLost(reason, moved))
        self._turn("closed")

    def _turn(self, state: State) -> None:
        self.state = state
        self._changed(self)

    def _end_if_drained(self) -> None:
        if self.state == "draining" and not self._inboxes:
            self.close("drained", moved=True)

    async def _run(self) -> None:
        streaming = self._handle.options(stream=True)
        stream = cast(DeploymentResponseGenerator[Address], streaming.open.remote(to=self.name))
        try:
            reason = await self._follow(stream)
        except (RayError, RayServeException, OSError, WireError) as error:
            reason = f"{type(error).__name__}: {error}"[:200]
        except Exception:
            logger.exception("the link to replica %s failed", self.name)
            reason = "its link failed"
        finally:
            with suppress(Exception):
                stream.cancel()  # type: ignore[no-untyped-call]
        self.close(reason)

    async def _follow(self, stream: DeploymentResponseGenerator[Address]) -> str:
        """Connect, and go on until something ends; returns what it was."""
        try:
            address = await asyncio.wait_for(anext(stream), self._hang_after_s)
            wire = await asyncio.wait_for(Wire.connect(address.host, address.port), self._hang_after_s)
        except StopAsyncIteration:
            return "its stream ended"
        except TimeoutError:
            return "it doesn't answer"
        parts = (self._listen(wire), self._talk(wire, address.token), _end(stream))
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            wire.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, wire: Wire) -> str:
        while (message := await wire.receive(_downlink)) is not None:
            self._asked_at = None
            if self.state == "opening":
                self._turn("open")
            self._take(message)
        return "its connection ended"

    async def _talk(self, wire: Wire, token: str) -> str:
        await wire.send(token)
        beat = min(HEARTBEAT_S, self._hang_after_s / 2)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._speak.wait(), beat)
            now = time.monotonic()
            if self._asked_at is not None and now - self._asked_at > self._hang_after_s:
                return "it doesn't answer"
            self._asked_at = self._asked_at or now
            self._speak.clear()
            orders, self._orders = tuple(self._orders), []
            cancelled, self._cancelled = tuple(self._cancelled), []
            try:
                async with asyncio.timeout(self._hang_after_s):
                    await wire.send(Uplink(orders, cancelled))
            except TimeoutError:
                return "it reads nothing"

    def _take(self, message: Downlink) -> None:
        for step in message.steps:
            inbox = self._inboxes.get(step.request_id)
            if inbox is not None:
                if step.finish_reason is not None:
                    del self._inboxes[step.request_id]
                inbox.put_nowait(step)
        for refusal in message.refusals:
            inbox = self._inboxes.pop(refusal.request_id, None)
            if inbox is not None:
                inbox.put_nowait(refusal.error)
        self.load = load = message.load
        self._others = max(0, load.running + load.waiting - len(self._inboxes))
        self._end_if_drained()


async def _end(stream: DeploymentResponseGenerator[Address]) -> str:
    async for _ in stream:
        pass
    return "its stream ended"
