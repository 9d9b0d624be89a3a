"""More clients than a replica has room for, clients that vanish, replicas that are killed, added, removed and
replaced meanwhile: nothing hangs, nothing is left, no stream is interrupted.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from typing import Any

import httpx
import pytest

from online_draft.bench.churn.crowd import churn
from online_draft.bench.churn.holdings import Holding, holding, lasting, leaks, new_keys
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

    def ask(rng: random.Random) -> dict[str, Any]:
        return {**cluster.body(rng.randrange(1000), 600)}

    async with cluster.client() as http:
        await churn(http, ask, 6, 20.0, 1500)  # allocators settle
        before, names = usage(cluster), lasting(keys)
        seen = await churn(http, ask, 6, CHURN_S)
        await asyncio.to_thread(
            cluster.until, lambda: cluster.integrity()["requests"] == 0, "an empty engine"
        )
    assert set(seen) == {"200"}
    assert cluster.integrity() == {"blocks_held": 0, "requests": 0}
    assert not leaks(before, usage(cluster)) and not new_keys(names, lasting(keys))
    keys.close()


def usage(cluster: Any) -> dict[str, Holding]:
    """What ingress and replica hold."""
    return {name: holding(*cluster.pids(name)) for name in ("Ingress", "Replica")}


async def test_killed_replicas_interrupt_no_stream(cluster: Any) -> None:
    cluster.deploy(2)
    async with cluster.client() as http:
        undisturbed = [await cluster.stream().run(http, cluster.body(number)) for number in range(8)]
        rng = random.Random(6)
        rounds = 0
        while cluster.interruptions() < 20:
            rounds += 1
            assert rounds <= 10, "streams are over before replicas are killed"
            await asyncio.to_thread(cluster.until, lambda: cluster.status()["replicas"] == 2, "both replicas")
            streams = [cluster.stream() for _ in undisturbed]
            running = [asyncio.create_task(s.run(http, cluster.body(n))) for n, s in enumerate(streams)]
            watched, at = rng.choice(streams), rng.randrange(1, 100)
            while len(watched.events) < at:
                await asyncio.sleep(0.002)
            os.kill(rng.choice(cluster.pids()), signal.SIGKILL)
            await asyncio.gather(*running)
            for stream, expected in zip(streams, undisturbed, strict=True):
                assert (stream.text, stream.tokens) == (expected.text, expected.tokens)
                for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
                    assert stream.usage[name] == expected.usage[name]


class Load:
    """Clients that ask without pause, half of them streaming, and remember every failure."""

    def __init__(self, cluster: Any, clients: int = 4) -> None:
        self._cluster = cluster
        self._clients = clients
        self.served = 0
        self.failures: list[str] = []
        self._stopping = False

    async def __aenter__(self) -> Load:
        self._http = self._cluster.client()
        self._expected = [
            (await self._cluster.stream().run(self._http, self._cluster.body(n, 150))).text for n in range(8)
        ]
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(self._clients)]
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._http.aclose()

    async def _ask(self, number: int) -> None:
        while not self._stopping:
            number = (number + 3) % 8
            try:
                if number % 2:
                    text = (
                        await self._cluster.stream().run(self._http, self._cluster.body(number, 150))
                    ).text
                else:
                    answer = await self._http.post("/v1/completions", json=self._cluster.body(number, 150))
                    assert answer.status_code == 200, answer.text
                    text = answer.json()["choices"][0]["text"]
                assert text == self._expected[number], "another text"
                self.served += 1
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}"[:300])


async def test_replicas_come_go_and_are_replaced_under_load(cluster: Any) -> None:
    cluster.deploy(1)
    async with Load(cluster) as load:
        two = {"scaling": {**cluster.config["scaling"], "ingresses": 2}}
        for replicas, changes in ((3, {}), (1, {}), (1, two)):
            before = load.served
            pids = set(cluster.pids())
            await asyncio.to_thread(cluster.deploy, replicas, **changes)
            if changes:
                await asyncio.to_thread(
                    cluster.until, lambda old=pids: not old & set(cluster.pids()), "others"
                )
            await asyncio.to_thread(cluster.until, lambda b=before: load.served >= b + 8, "answers")
    assert not load.failures and load.served > 40
