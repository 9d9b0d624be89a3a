"""More clients than a replica has room for, and clients that vanish: nothing hangs, nothing is left."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from online_draft.store import connect_redis

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHURN_S = 60.0


async def test_two_hundred_streams_get_an_answer_or_a_503(cluster: Any) -> None:
    cluster.deploy(1)

    async def one(http: httpx.AsyncClient, number: int) -> int:
        asked = {**cluster.body(number, 100), "stream": True}
        async with http.stream("POST", "/v1/completions", json=asked) as response:
            lines = [line async for line in response.aiter_lines() if line]
        if response.status_code == 200:
            assert lines[-1] == "data: [DONE]" and "error" not in lines[-2]
        else:
            assert int(response.headers["retry-after"]) >= 1 and "server_overloaded" in lines[0]
        return response.status_code

    async with cluster.client() as http:
        statuses = Counter(await asyncio.gather(*(one(http, number) for number in range(200))))
    assert set(statuses) == {200, 503} and statuses[200] >= 40
    await asyncio.to_thread(cluster.until, lambda: cluster.integrity()["requests"] == 0, "an empty engine")


async def test_clients_that_vanish_leave_nothing_behind(cluster: Any) -> None:
    cluster.deploy(1)
    keys = connect_redis(cluster.config["redis_url"])
    async with cluster.client() as http:
        await churn(http, cluster, 20.0, 1500)  # allocators settle
        before, names = usage(cluster), lasting(keys)
        await churn(http, cluster, CHURN_S)
        await asyncio.to_thread(
            cluster.until, lambda: cluster.integrity()["requests"] == 0, "an empty engine"
        )
    after = usage(cluster)
    assert cluster.integrity() == {"blocks_held": 0, "requests": 0}
    for name, (memory, files) in after.items():
        assert memory <= 1.05 * before[name][0], f"{name} grew from {before[name][0]} to {memory} bytes"
        assert files <= before[name][1] + 4, f"{name} has {files} files open, had {before[name][1]}"
    assert lasting(keys) <= names
    keys.close()


async def churn(http: httpx.AsyncClient, cluster: Any, seconds: float, requests: int = 0) -> None:
    """Six clients that each read some events of a long answer and go away, for so long and so often."""
    until, done = time.monotonic() + seconds, 0

    async def client(number: int) -> None:
        nonlocal done
        rng = random.Random(number)
        while time.monotonic() < until or done < requests:
            done += 1
            asked = {**cluster.body(rng.randrange(1000), 600), "stream": True}
            async with http.stream("POST", "/v1/completions", json=asked) as response:
                assert response.status_code == 200
                left = rng.randrange(0, 30)
                async for _ in response.aiter_lines():
                    left -= 1
                    if left < 0:
                        break

    await asyncio.gather(*(client(number) for number in range(6)))


def lasting(keys: redis.Redis) -> set[Any]:
    """Keys that don't expire."""
    found: Any = keys.keys("*")
    return {key for key in found if keys.ttl(key) == -1}


def usage(cluster: Any) -> dict[str, tuple[int, int]]:
    """Resident bytes and open files of ingress and replica."""
    found = {}
    for deployment in ("Ingress", "Replica"):
        (pid,) = cluster.pids(deployment)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        found[deployment] = (4096 * pages, len(list(Path(f"/proc/{pid}/fd").iterdir())))
    return found
