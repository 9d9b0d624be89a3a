"""Requests to the running endpoint, as any client would send them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: a prompt of a domain, and all that fixes its answer."""

    domain: str
    prompt: str
    seed: int
    temperature: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; `error` says why nothing did."""

    ask: Ask
    prompt_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    steps: int = 0
    committed: int = 0
    version: str | None = None
    error: str | None = None
    step_lengths: tuple[int, ...] = ()
    tried: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Burst:
    """Replies to requests that were sent together, and the wall time until the last one was complete."""

    replies: tuple[Reply, ...]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens generated."""
        return sum(len(reply.token_ids) for reply in self.replies)

    @property
    def version(self) -> str | None:
        """The drafter version that served most of the requests."""
        served = Counter(reply.version for reply in self.replies)
        return served.most_common(1)[0][0] if served else None


class Client:
    """Talks to the API and the admin API of one running system."""

    def __init__(self, url: str, model: str, admin_key: str, concurrency: int) -> None:
        self._model = model
        self._key = {"Authorization": f"Bearer {admin_key}"}
        self._slots = asyncio.Semaphore(concurrency)
        limits = httpx.Limits(max_connections=concurrency + 2)
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def burst(self, asks: Sequence[Ask], plain: bool = False) -> Burst:
        """Send requests, a few at a time, and wait for all. `plain` ones are decoded without drafts and
        never logged, so that they teach nothing."""
        started = time.perf_counter()
        replies = await asyncio.gather(*(self._send(ask, plain) for ask in asks))
        return Burst(tuple(replies), time.perf_counter() - started)

    async def status(self) -> dict[str, Any] | None:
        """The admin API's view; None while it doesn't answer."""
        try:
            response = await self._http.get("/admin/api/status", headers=self._key)
            response.raise_for_status()
            status: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError):
            return None
        return status

    async def _send(self, ask: Ask, plain: bool) -> Reply:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": ask.prompt}],
            "seed": ask.seed,
            "temperature": ask.temperature,
            "max_tokens": ask.max_tokens,
            "metadata": {"segment": ask.domain},
            "metrics": True,
            "return_token_ids": True,
        }
        if plain:
            body |= {"speculate": False, "store": False}
        async with self._slots:
            try:
                response = await self._http.post("/v1/chat/completions", json=body)
                answer = response.json()
                if response.status_code != 200:
                    return Reply(ask, error=f"{response.status_code}: {answer['error']['message']}")
                choice = answer["choices"][0]
                counts = answer["metrics"]["speculative_decoding"]["choices"][0]
                return Reply(
                    ask,
                    tuple(answer["prompt_token_ids"]),
                    tuple(choice["token_ids"]),
                    counts["steps"],
                    counts["committed"],
                    counts["drafter_version"],
                    None,
                    tuple(counts["step_lengths"]),
                    tuple(counts["tried"]),
                    tuple(counts["accepted"]),
                )
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                return Reply(ask, error=f"{type(error).__name__}: {error}")
