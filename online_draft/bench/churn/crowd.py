"""Clients that read some events of a stream and go away without a word."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

MOST_EVENTS = 30
PAUSE_S = (0.05, 0.5)
"""Of a client that was turned away; shorter than `Retry-After`, so that the queue stays full."""

Ask = Callable[[random.Random], dict[str, Any]]


async def churn(
    http: httpx.AsyncClient, ask: Ask, clients: int, seconds: float, requests: int = 0
) -> Counter[str]:
    """`clients` at a time, for so long and until there were so many requests; how often what happened.

    `ask` makes a body. What can happen: `200`, `503` with a `Retry-After` (without one: `503 bare`), other
    statuses, an exception's name.
    """
    seen: Counter[str] = Counter()
    until = time.monotonic() + seconds

    async def client(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < until or seen.total() < requests:
            try:
                outcome = await _once(http, {**ask(rng), "stream": True}, rng.randrange(MOST_EVENTS))
            except httpx.HTTPError as error:
                outcome = type(error).__name__
            seen[outcome] += 1
            if outcome != "200":
                await asyncio.sleep(rng.uniform(*PAUSE_S))

    await asyncio.gather(*(client(number) for number in range(clients)))
    return seen


async def _once(http: httpx.AsyncClient, body: dict[str, Any], events: int) -> str:
    async with http.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code == 503:
            return "503" if response.headers.get("retry-after", "").isdecimal() else "503 bare"
        left = events
        async for line in response.aiter_lines():
            left -= line.startswith("data: ")
            if left < 0:
                break
        return str(response.status_code)
