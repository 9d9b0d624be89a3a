"""Rate limits over all ingresses: buckets and stream leases in Redis, or this ingress's share of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import redis

from online_draft.serve.access.bucket import SECOND, Demand, Level
from online_draft.serve.access.local import LocalBuckets, Verdict
from online_draft.serve.access.script import MEET, TAKE
from online_draft.store import RedisKeys
from online_draft.store.connection import connect_async_redis

logger = logging.getLogger(__name__)

REDIS_TIMEOUT_S = 0.25
"""A request waits so long for Redis at most, and then no further one does until Redis answers again."""
MEET_EVERY_S = 1.0
PROBE_EVERY_S = 0.25
INGRESS_COUNTS_S = 10.0
LEASE_S = 15.0

_AWAY = (redis.RedisError, OSError, asyncio.TimeoutError)


class Limiter:
    """One per ingress; used on one event loop. Without a `redis_url` limits are this process's own.

    While Redis is away each ingress grants its share, by the number of ingresses that were there last; what
    it granted is charged when Redis returns, also to a Redis that came back empty.
    """

    def __init__(self, redis_url: str | None, keys: RedisKeys, ingress_id: str | None = None) -> None:
        self._id = ingress_id or secrets.token_hex(8)
        self._keys = keys
        self._client = None if redis_url is None else connect_async_redis(redis_url, REDIS_TIMEOUT_S)
        if self._client is not None:
            self._take_script = self._client.register_script(TAKE)
            self._meet_script = self._client.register_script(MEET)
        self._shared = self._client is not None
        self._epoch = ""
        self._local = LocalBuckets()
        self._leases: dict[str, str] = {}
        self._ingresses = 1
        self._all_back_by = 0.0
        self._clock_ahead = time.time() * SECOND - time.monotonic() * SECOND
        self._keeper: asyncio.Task[None] | None = None

    @property
    def shared(self) -> bool:
        """Whether limits hold over all ingresses now."""
        return self._shared

    @property
    def ingresses(self) -> int:
        """How many there are, as of the last look."""
        return self._ingresses

    async def start(self) -> None:
        """Say that this ingress is there, so that the others know their share. Idempotent."""
        if self._client is not None and self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
            await self._meet()

    async def close(self) -> None:
        """End the background task and the connection. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        if self._client is not None:
            with suppress(*_AWAY):
                await self._client.zrem(self._keys.ingresses, self._id)
            await self._client.aclose()

    async def take(self, demands: Sequence[Demand]) -> Verdict:
        """Take all of it or nothing. Never raises for Redis's sake."""
        return await self._settle(demands, forced=False)

    async def charge(self, demand: Demand) -> Level:
        """Take in any case, into debt if need be; a negative amount is given back."""
        return (await self._settle([demand], forced=True)).levels[0]

    async def open_stream(self, key: str, limit: int) -> str | None:
        """A lease for one more stream of a key; None when it has `limit` of them."""
        await self.start()
        lease = f"{self._id}:{secrets.token_hex(6)}"
        verdict = None
        if self._shared:
            with suppress(*_AWAY):
                verdict = await self._ask([], False, lease, key, limit)
            if verdict is None:
                self._lose()
        if verdict is None:
            share = max(1, limit // self._ingresses)
            verdict = Verdict(Counter(self._leases.values())[key] < share)
        if not verdict.met:
            return None
        self._leases[lease] = key
        return lease

    async def close_stream(self, lease: str) -> None:
        """Give a lease back. Idempotent."""
        key = self._leases.pop(lease, None)
        if key is None or not self._shared or self._client is None:
            return
        try:
            await self._client.zrem(self._keys.streams(key), lease)
        except _AWAY:
            self._lose()

    async def _settle(self, demands: Sequence[Demand], forced: bool) -> Verdict:
        await self.start()
        if self._shared:
            try:
                return await self._ask(demands, forced)
            except _AWAY:
                self._lose()
        return self._local.take(demands, self._ingresses, self._now(), forced)

    async def _ask(
        self, demands: Sequence[Demand], forced: bool, lease: str = "", key: str = "", limit: int = 0
    ) -> Verdict:
        """One run of the script. Raises what redis-py raises."""
        now = self._now()
        names = [self._keys.limit_epoch, self._keys.streams(key)]
        arguments: list[Any] = [self._epoch, secrets.token_hex(8), lease, limit, int(LEASE_S * SECOND)]
        for demand in demands:
            names.append(self._keys.limit(demand.name))
            arguments += [
                round(demand.cost_us),
                round(demand.burst_us),
                round(self._local.seen(demand)),
                round(self._local.excess(demand, now)),
                int(forced),
            ]
        answer = cast(list[Any], await self._take_script(keys=names, args=arguments))
        met, now = bool(answer[0]), float(answer[1])
        self._clock_ahead = now - time.monotonic() * SECOND
        self._epoch = bytes(answer[2]).decode()
        levels = []
        for demand, full_at in zip(demands, map(float, answer[4:]), strict=True):
            self._local.learn(demand, full_at)
            levels.append(Level.at(demand, full_at, now, met))
        return Verdict(met, tuple(levels), int(answer[3]))

    async def _keep(self) -> None:
        """Tell the others that we are there, keep leases, and come back to a Redis that was away."""
        while True:
            await asyncio.sleep(MEET_EVERY_S if self._shared else PROBE_EVERY_S)
            self._local.forget_full(self._now())
            await self._meet()

    async def _meet(self) -> None:
        assert self._client is not None
        leases = list(self._leases.items())
        names = [self._keys.ingresses, *(self._keys.streams(key) for _, key in leases)]
        times = [int(INGRESS_COUNTS_S * SECOND), int(LEASE_S * SECOND)]
        try:
            found = await self._meet_script(
                keys=names, args=[self._id, *times, *(name for name, _ in leases)]
            )
            for demand in self._local.owing():
                await self._ask([demand], forced=True)
        except _AWAY:
            self._lose()
            return
        now = time.monotonic()
        if int(cast(int, found)) >= self._ingresses or now > self._all_back_by:
            self._ingresses = max(1, int(cast(int, found)))
        if not self._shared:
            logger.warning("rate limits are shared again by %d ingresses", self._ingresses)
        self._shared = True

    def _lose(self) -> None:
        self._all_back_by = time.monotonic() + INGRESS_COUNTS_S
        if self._shared:
            logger.warning(
                "rate limits can't be shared, Redis is away: each of %d ingresses grants its part",
                self._ingresses,
            )
        self._shared = False

    def _now(self) -> float:
        return time.monotonic() * SECOND + self._clock_ahead
