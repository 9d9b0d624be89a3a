"""Several replicas behind one endpoint: killed, added, removed and replaced while clients are served."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


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
