"""The replica's part that counts here: the engine on its thread, and what it says of its load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from online_draft.core import GenerationRequest
from online_draft.decoding.engine import Engine
from online_draft.errors import OnlineDraftError
from online_draft.serve.engine_thread import EngineThread
from online_draft.serve.load import LoadPublisher
from online_draft.store import RedisKeys, connect_redis


@dataclass(slots=True)
class Latencies:
    """Of some requests, in seconds: time to the first output, gaps between outputs; how many failed."""

    ttft: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    failed: int = 0


class Serving:
    """Entering starts the engine's thread and one publisher of its load for each of `keys`."""

    def __init__(self, build: Callable[[], Engine], redis_url: str, keys: Sequence[RedisKeys]) -> None:
        self._engine = EngineThread(build, on_busy=self._wake)
        self._publishers = [
            LoadPublisher(connect_redis(redis_url), names, "bench", self._engine.load, dict) for names in keys
        ]

    def __enter__(self) -> Serving:
        self._engine.start()
        for publisher in self._publishers:
            publisher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()
        for publisher in self._publishers:
            publisher.close()

    @property
    def kernel(self) -> str:
        """What runs the engine's steps."""
        return self._engine.call(lambda engine: engine.kernel).result()

    async def burst(self, requests: Sequence[GenerationRequest], into: Latencies) -> None:
        """Send all at once, and wait for all."""
        await asyncio.gather(*(self._ask(request, into) for request in requests))

    async def _ask(self, request: GenerationRequest, into: Latencies) -> None:
        last = time.perf_counter()
        first = True
        try:
            async for output in self._engine.generate(request):
                now = time.perf_counter()
                if output.token_ids:
                    (into.ttft if first else into.itl).append(now - last)
                    first, last = False, now
                into.failed += output.finish_reason in ("abort", "error")
        except OnlineDraftError:
            into.failed += 1

    def _wake(self) -> None:
        for publisher in self._publishers:
            publisher.wake()
