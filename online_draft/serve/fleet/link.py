"""The ingress's end of what connects it with one replica: one stream down, calls up, as few as possible."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, cast

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from online_draft.core import StepOutput
from online_draft.errors import OnlineDraftError
from online_draft.serve.fleet.channel import WINDOW
from online_draft.serve.fleet.messages import Downlink, Order, Refusal, ReplicaLoad, Uplink

logger = logging.getLogger(__name__)

HEARTBEAT_S = 2.0

Inbox = asyncio.Queue[StepOutput | Exception]
State = Literal["opening", "open", "draining", "closed"]


class ReplicaLost(OnlineDraftError):
    """A replica can't finish a request any more. `moved` where that was meant, as it is about to end."""

    def __init__(self, message: str, moved: bool = False) -> None:
        super().__init__(message)
        self.moved = moved


class Link:
    """All requests of this ingress that one replica works on. Lives on one event loop.

    `start` opens it; `changed` is called with every change of `state`. A stream that ends, or a call up that
    fails or takes longer than `hang_after_s`, means that the replica is lost: every inbox then gets
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
        self._channel = secrets.token_hex(8)
        self._inboxes: dict[str, Inbox] = {}
        self._others = 0
        self._orders: list[Order] = []
        self._cancelled: list[str] = []
        self._read = self._told = 0
        self._speak = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def requests(self) -> int:
        """Requests of this ingress that run there or wait."""
        return len(self._inboxes)

    @property
    def pressure(self) -> float:
        """As `ReplicaLoad.pressure`, with what this ingress has sent since."""
        return max((self._others + len(self._inboxes)) / self.load.slots, self.load.kv)

    def start(self) -> None:
        """Open the stream. Doesn't block."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._talk())]

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
        inboxes, self._inboxes = self._inboxes, {}
        for task in self._tasks:
            task.cancel()
        for inbox in inboxes.values():
            inbox.put_nowait(ReplicaLost(reason, moved))
        self._turn("closed")

    def _turn(self, state: State) -> None:
        self.state = state
        self._changed(self)

    def _end_if_drained(self) -> None:
        if self.state == "draining" and not self._inboxes:
            self.close("drained", moved=True)

    async def _listen(self) -> None:
        reason = "its stream ended"
        try:
            while await self._read_stream():
                pass
        except (RayError, RayServeException) as error:
            reason = type(error).__name__
        except Exception:
            logger.exception("the stream of replica %s failed", self.name)
            reason = "its stream failed"
        self.close(reason)

    async def _read_stream(self) -> bool:
        """Read a stream to its end; returns whether the channel goes on in another one."""
        streaming = self._handle.options(stream=True)
        stream = cast(
            DeploymentResponseGenerator[Downlink], streaming.open.remote(self._channel, to=self.name)
        )
        last = False
        try:
            async for message in stream:
                if self.state == "opening":
                    self._turn("open")
                self._take(message)
                last = message.last
        finally:
            if not last:
                with suppress(Exception):
                    stream.cancel()  # type: ignore[no-untyped-call]
        return last

    def _take(self, message: Downlink) -> None:
        self._read += 1
        if self._read - self._told >= WINDOW // 2:
            self._speak.set()
        for item in message.items:
            inbox = self._inboxes.get(item.request_id)
            if inbox is None:
                continue
            if isinstance(item, Refusal):
                del self._inboxes[item.request_id]
                inbox.put_nowait(item.error)
            else:
                if item.finish_reason is not None:
                    del self._inboxes[item.request_id]
                inbox.put_nowait(item)
        self._note(message.load)
        self._end_if_drained()

    def _note(self, load: ReplicaLoad) -> None:
        self.load = load
        self._others = max(0, load.running + load.waiting - len(self._inboxes))

    async def _talk(self) -> None:
        reason = "it knows the ingress no more"
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._speak.wait(), HEARTBEAT_S)
                if self.state == "opening":
                    continue
                self._speak.clear()
                orders, self._orders = tuple(self._orders), []
                cancelled, self._cancelled = tuple(self._cancelled), []
                self._told = self._read
                message = Uplink(orders, cancelled, self._read)
                async with asyncio.timeout(self._hang_after_s):
                    load = await self._handle.tell.remote(self._channel, message, to=self.name)
                if load is None:
                    break
                self._note(load)
        except TimeoutError:
            reason = "it doesn't answer"
        except (RayError, RayServeException) as error:
            reason = type(error).__name__
        except Exception:
            logger.exception("a call to replica %s failed", self.name)
            reason = "a call failed"
        self.close(reason)
