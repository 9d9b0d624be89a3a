"""The engine's thread, with an engine of plain Python."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import pytest

from online_draft.core import GenerationRequest, SamplingParams, StepOutput
from online_draft.errors import CapacityError, EngineDead
from online_draft.serve.engine_thread import EngineThread


class CountingEngine:
    """Gives every request the tokens 0, 1, 2 … one a step until max_tokens."""

    def __init__(self) -> None:
        self.running: dict[str, tuple[int, int]] = {}
        self.cancelled: list[str] = []
        self.room = 8
        self.before_step: Callable[[], None] = lambda: None
        self.cancel_seen = threading.Event()

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    def add(self, request: GenerationRequest) -> None:
        if len(self.running) >= self.room:
            raise CapacityError("the queue is full")
        self.running[request.request_id] = (0, request.sampling.max_tokens)

    def cancel(self, request_id: str) -> None:
        self.running.pop(request_id, None)
        self.cancelled.append(request_id)
        self.cancel_seen.set()

    def step(self) -> list[StepOutput]:
        self.before_step()
        outputs = []
        for request_id, (done, limit) in list(self.running.items()):
            last = done + 1 == limit
            outputs.append(StepOutput(request_id, (done,), str(done), "length" if last else None))
            self.running[request_id] = (done + 1, limit)
            if last:
                del self.running[request_id]
        return outputs

    def load(self) -> tuple[int, int]:
        return len(self.running), 0


def ask(name: str, tokens: int = 5) -> GenerationRequest:
    return GenerationRequest(name, (1,), SamplingParams(max_tokens=tokens))


@contextmanager
def started(engine: CountingEngine, **options: float) -> Iterator[EngineThread[CountingEngine]]:
    thread = EngineThread(lambda: engine, **options)  # type: ignore[arg-type]
    thread.start(10)
    try:
        yield thread
    finally:
        thread.close()


async def collect(stream: AsyncIterator[StepOutput]) -> list[StepOutput]:
    return [output async for output in stream]


async def test_every_request_gets_its_own_steps_in_order() -> None:
    with started(CountingEngine()) as thread:
        results = await asyncio.gather(*(collect(thread.generate(ask(f"r{i}", i + 1))) for i in range(8)))
        for i, outputs in enumerate(results):
            assert [o.token_ids[0] for o in outputs] == list(range(i + 1))
            assert {o.request_id for o in outputs} == {f"r{i}"}
        await asyncio.wrap_future(thread.call(lambda engine: None))
        assert thread.load() == (0, 0)


async def test_a_full_queue_is_refused_before_the_first_item() -> None:
    engine = CountingEngine()
    engine.room = 0
    with started(engine) as thread:
        with pytest.raises(CapacityError):
            await anext(thread.generate(ask("r")))
        thread.check()


async def test_closing_the_stream_cancels_the_request() -> None:
    engine = CountingEngine()
    with started(engine) as thread:
        stream = thread.generate(ask("r", 10**9))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert await asyncio.to_thread(engine.cancel_seen.wait, 10)
        assert engine.cancelled == ["r"] and not engine.has_work


async def test_a_cancelled_consumer_cancels_the_request() -> None:
    engine = CountingEngine()
    with started(engine) as thread:
        task = asyncio.create_task(collect(thread.generate(ask("r", 10**9))))
        while not engine.has_work:
            await asyncio.sleep(0)
        task.cancel()
        assert await asyncio.to_thread(engine.cancel_seen.wait, 10)


async def test_calls_run_on_the_engines_thread_between_steps() -> None:
    with started(CountingEngine()) as thread:
        name = await asyncio.wrap_future(thread.call(lambda engine: threading.current_thread().name))
        assert name == "engine"
        with pytest.raises(ZeroDivisionError):
            await asyncio.wrap_future(thread.call(lambda engine: 1 // 0))
        thread.check()


async def test_a_failing_step_ends_its_requests_and_rebuilds_the_engine() -> None:
    broken, sound = CountingEngine(), CountingEngine()
    broken.before_step = lambda: 1 // 0
    engines = [broken, sound]
    thread = EngineThread(lambda: engines.pop(0))
    thread.start(10)
    try:
        (output,) = await collect(thread.generate(ask("a")))
        assert output.finish_reason == "error" and output.error and "division" in output.error
        assert len(await collect(thread.generate(ask("b", 3)))) == 3
        thread.check()
    finally:
        thread.close()


async def test_an_engine_that_keeps_failing_is_dead() -> None:
    def build() -> CountingEngine:
        engine = CountingEngine()
        engine.before_step = lambda: 1 // 0
        return engine

    thread = EngineThread(build, max_rebuilds=1)
    thread.start(10)
    for name in "ab":
        (output,) = await collect(thread.generate(ask(name)))
        assert output.finish_reason == "error"
    thread.close()
    with pytest.raises(EngineDead, match="2 times"):
        await anext(thread.generate(ask("c")))
    with pytest.raises(EngineDead, match="2 times"):
        thread.check()


async def test_a_hung_step_is_noticed() -> None:
    engine = CountingEngine()
    inside, release = threading.Event(), threading.Event()

    def hang() -> None:
        inside.set()
        release.wait(10)

    engine.before_step = hang
    with started(engine, hang_after_s=0.0) as thread:
        thread.check()
        task = asyncio.create_task(collect(thread.generate(ask("r", 1))))
        await asyncio.to_thread(inside.wait, 10)
        with pytest.raises(EngineDead, match="one step"):
            thread.check()
        release.set()
        await task


async def test_closing_the_thread_ends_its_streams() -> None:
    engine = CountingEngine()
    with started(engine) as thread:
        task = asyncio.create_task(collect(thread.generate(ask("r", 10**9))))
        while not engine.has_work:
            await asyncio.sleep(0)
        await asyncio.to_thread(thread.close)
        assert (await task)[-1].finish_reason == "error"
        with pytest.raises(EngineDead):
            thread.call(lambda engine: None)


async def test_a_build_that_fails_is_told_to_the_starter() -> None:
    def build() -> CountingEngine:
        raise ValueError("no such target")

    thread = EngineThread(build)
    with pytest.raises(ValueError, match="no such target"):
        thread.start(10)
    with pytest.raises(EngineDead):
        thread.check()


async def test_going_busy_is_announced() -> None:
    calls: list[int] = []
    thread = EngineThread(CountingEngine, on_busy=lambda: calls.append(1))
    thread.start(10)
    try:
        await collect(thread.generate(ask("r")))
        await collect(thread.generate(ask("s")))
        assert len(calls) == 2
    finally:
        thread.close()
