"""All replicas as one ingress sees them: links opened, lost, opened again, and drained."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

from ray.serve.handle import DeploymentHandle

from online_draft.core import GenerationRequest
from online_draft.errors import CapacityError
from online_draft.serve.fleet.link import Link, ReplicaLost
from online_draft.serve.fleet.members import MEMBERS, deployment_key
from online_draft.serve.fleet.placement import Placement
from online_draft.serve.fleet.scaling import ScalingConfig

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LAST_PAUSE_S = 2.0


class Fleet:
    """Keeps one link to every running replica, from `start` on. Lives on one event loop.

    At most `patient` new requests wait while there is no replica, each `scaling.resume_s` at most. A replica
    that says nothing for `hang_after_s` is left.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        scaling: ScalingConfig,
        block_size: int,
        patient: int,
        hang_after_s: float = 30.0,
    ) -> None:
        self._handle = handle
        self._hang_after_s = hang_after_s
        self._scaling = scaling
        self._patient = patient
        self._placement = Placement(block_size)
        self._links: dict[str, Link] = {}
        self._ending: set[Link] = set()
        self._pauses: dict[str, float] = {}
        self._members: frozenset[str] = frozenset()
        self._key = ""
        self._unwatch: Callable[[], None] = lambda: None
        self._waiters: set[asyncio.Future[None]] = set()
        self.ending = False

    def start(self) -> None:
        """Follow the deployment's replicas. Its handle must have been used before: that starts its router."""
        loop = asyncio.get_running_loop()
        self._key = deployment_key(self._handle.app_name, self._handle.deployment_name)

        def follow(names: frozenset[str]) -> None:
            loop.call_soon_threadsafe(self._follow, names)

        self._unwatch = MEMBERS.watch(self._key, follow)

    def close(self) -> None:
        """Close all links; what runs is cancelled. Idempotent."""
        self._unwatch()
        self._members = frozenset()
        for link in [*self._links.values(), *self._ending]:
            link.close("the ingress ends")

    @property
    def open(self) -> list[Link]:
        """Links that take orders."""
        return [link for link in self._links.values() if link.state == "open"]

    @property
    def patience_s(self) -> float:
        """How long a request may wait for room or for a replica."""
        return self._scaling.resume_s

    def end(self) -> None:
        """The service ends: a request that loses its replica now waits for no other."""
        self.ending = True
        self._wake()

    async def pick(self, request: GenerationRequest, avoid: Collection[str] = (), must: bool = False) -> Link:
        """The link for a request, none of those named in `avoid` unless others fail to come.

        CapacityError when too many wait for a replica already, unless it `must` be; ReplicaLost when none
        comes in time.
        """
        if not self._choice(avoid):
            if len(self._waiters) >= self._patient and not must:
                raise CapacityError("there is no replica, and too many wait for one")
            try:
                async with asyncio.timeout(self._scaling.resume_s):
                    while not (self._choice(avoid) or self.ending):
                        await self._change()
            except TimeoutError:
                pass
            if not self.open:
                raise ReplicaLost("there is no replica")
        return self._placement.choose(request, self._choice(avoid) or self.open)

    async def change(self, seconds: float) -> None:
        """Wait until a link opens or closes, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._change()
        except TimeoutError:
            pass

    def _choice(self, avoid: Collection[str]) -> list[Link]:
        return [link for link in self.open if link.name not in avoid]

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _follow(self, names: frozenset[str]) -> None:
        self._members = names
        for name in names - self._links.keys():
            self._open(name)
        for name in self._links.keys() - names:
            self._drain(name)
        self._pauses = {name: pause for name, pause in self._pauses.items() if name in names}

    def _open(self, name: str) -> None:
        if name in self._links or name not in self._members:
            return
        link = self._links[name] = Link(name, self._handle, self._changed, self._hang_after_s)
        self._say_in_use()
        link.start()

    def _drain(self, name: str) -> None:
        link = self._links.pop(name)
        self._ending.add(link)
        link.drain()
        if link.state != "closed":
            logger.info("replica %s ends, %d requests run there", name, link.requests)
            late = asyncio.get_running_loop().call_later
            late(self._scaling.drain_s, lambda: link.close("it ends", moved=True))

    def _changed(self, link: Link) -> None:
        if link.state == "open":
            self._pauses.pop(link.name, None)
        elif link.state == "closed":
            self._ending.discard(link)
            if self._links.get(link.name) is link:
                self._lost(link)
            self._say_in_use()
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _lost(self, link: Link) -> None:
        """Try again, unless the deployment drops it meanwhile."""
        del self._links[link.name]
        if link.name not in self._members:
            return
        pause = self._pauses.get(link.name, FIRST_PAUSE_S)
        self._pauses[link.name] = min(2 * pause, LAST_PAUSE_S)
        logger.warning("replica %s was lost: %s", link.name, link.reason)
        asyncio.get_running_loop().call_later(pause, self._open, link.name)

    def _say_in_use(self) -> None:
        names = {*self._links, *(link.name for link in self._ending)}
        MEMBERS.use(self._key, names)
