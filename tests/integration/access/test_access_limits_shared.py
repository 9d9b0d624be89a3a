"""Rate limits over two ingresses and a real redis-server, also while it is away and when it is back empty."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from online_draft.redis_server import PrivateRedis
from online_draft.serve.access.bucket import Demand
from online_draft.serve.access.limiter import Limiter
from online_draft.store import RedisKeys, connect_redis

KEYS = RedisKeys()


@pytest.fixture
async def pair(redis_server: PrivateRedis) -> AsyncIterator[tuple[Limiter, Limiter]]:
    """Two ingresses that know of each other."""
    pair = Limiter(redis_server.url, KEYS, "one"), Limiter(redis_server.url, KEYS, "two")
    for limiter in (*pair, pair[0]):
        await limiter.start()
    await pair[0]._meet()
    assert [limiter.ingresses for limiter in pair] == [2, 2]
    yield pair
    for limiter in pair:
        await limiter.close()


async def hammer(
    limiters: tuple[Limiter, ...], seconds: float, per_minute: int, burst_s: float, amount: float = 1
) -> float:
    """What the limiters granted in so many seconds, asked for as often as they answer."""
    granted = 0.0
    end = time.monotonic() + seconds

    async def ask(limiter: Limiter) -> None:
        nonlocal granted
        while time.monotonic() < end:
            if (await limiter.take([Demand("k", "requests", per_minute, burst_s, amount)])).met:
                granted += amount
            await asyncio.sleep(0.002)

    await asyncio.gather(*(ask(limiter) for limiter in limiters for _ in range(3)))
    return granted


async def test_two_ingresses_grant_one_bucket(pair: tuple[Limiter, Limiter]) -> None:
    per_minute, burst_s, seconds = 6000, 2.0, 3.0
    granted = await hammer(pair, seconds, per_minute, burst_s)
    allowed = per_minute / 60 * (burst_s + seconds)
    assert 0.95 * allowed <= granted <= 1.05 * allowed


@pytest.mark.parametrize("away_s", [0.0, 1.5])
async def test_a_redis_that_restarts_empty_changes_nothing(
    pair: tuple[Limiter, Limiter], redis_server: PrivateRedis, away_s: float
) -> None:
    per_minute, burst_s, seconds = 6000, 3.0, 5.0

    async def restart() -> None:
        await asyncio.sleep(1.5)
        await asyncio.to_thread(redis_server.kill)
        await asyncio.sleep(away_s)
        assert away_s == 0.0 or not any(limiter.shared for limiter in pair)
        await asyncio.to_thread(redis_server.start)

    granted, _ = await asyncio.gather(hammer(pair, seconds, per_minute, burst_s), restart())
    allowed = per_minute / 60 * (burst_s + seconds)
    assert 0.95 * allowed <= granted <= 1.05 * allowed
    assert all(limiter.shared for limiter in pair)


async def test_a_bucket_lost_unnoticed_is_what_it_was(
    pair: tuple[Limiter, Limiter], redis_server: PrivateRedis
) -> None:
    demand = Demand("k", "tokens", 600, 60, 600)
    assert (await pair[0].take([demand])).met
    client = connect_redis(redis_server.url)
    client.flushall()
    client.close()
    assert not (await pair[1].take([demand])).met or not (await pair[0].take([demand])).met
    assert not (await pair[0].take([demand])).met and not (await pair[1].take([demand])).met


async def test_all_demands_are_met_or_none(pair: tuple[Limiter, Limiter]) -> None:
    few, many = Demand("k", "requests", 60, 60, 1), Demand("k", "tokens", 100, 60, 101)
    for _ in range(70):
        assert not (await pair[0].take([few, many])).met
    verdict = await pair[1].take([few])
    assert verdict.met and verdict.levels[0].remaining == 59


async def test_what_is_given_back_can_be_taken_again(pair: tuple[Limiter, Limiter]) -> None:
    whole = Demand("k", "tokens", 1000, 60, 1000)
    assert (await pair[0].take([whole])).met
    assert not (await pair[1].take([whole])).met
    level = await pair[0].charge(Demand("k", "tokens", 1000, 60, -1000))
    assert level.remaining == 1000
    assert (await pair[1].take([whole])).met


async def test_debt_is_paid_before_anything_is_granted(pair: tuple[Limiter, Limiter]) -> None:
    level = await pair[0].charge(Demand("k", "tokens", 60_000, 1, 1500))
    assert level.remaining == 0 and level.full_in_s == pytest.approx(1.5, abs=0.01)
    refused = await pair[1].take([Demand("k", "tokens", 60_000, 1, 1)])
    assert not refused.met and refused.levels[0].wait_s == pytest.approx(0.5, abs=0.05)
    await asyncio.sleep(0.6)
    assert (await pair[1].take([Demand("k", "tokens", 60_000, 1, 1)])).met


async def test_streams_are_counted_over_ingresses_and_a_restart(
    pair: tuple[Limiter, Limiter], redis_server: PrivateRedis
) -> None:
    first, second = await pair[0].open_stream("k", 2), await pair[1].open_stream("k", 2)
    assert first is not None and second is not None
    assert await pair[0].open_stream("k", 2) is None
    redis_server.restart()
    for limiter in pair * 2:  # the first time finds the connection broken
        await limiter._meet()
    assert await pair[1].open_stream("k", 2) is None
    await pair[0].close_stream(first)
    assert await pair[1].open_stream("k", 2) is not None
    assert await pair[0].open_stream("other", 2) is not None


async def test_buckets_and_leases_leave_no_key_behind(
    pair: tuple[Limiter, Limiter], redis_server: PrivateRedis
) -> None:
    await pair[0].take([Demand("k", "requests", 60_000, 60, 1)])
    lease = await pair[0].open_stream("k", 1)
    assert lease is not None
    await pair[0].close_stream(lease)
    await asyncio.sleep(0.05)
    client = connect_redis(redis_server.url)
    assert {bytes(key) for key in client.keys("*")} == {b"od:limit-epoch", b"od:ingresses"}
    client.close()
