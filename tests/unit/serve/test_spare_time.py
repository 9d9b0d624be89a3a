"""What an engine's thread does while there is no request: nothing that a request would wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

from online_draft.core import GenerationRequest, SamplingParams, StepOutput
from online_draft.serve.engine_thread import EngineThread


class OneStep:
    """An engine that answers each request in one step."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.waiting: list[str] = []

    @property
    def has_work(self) -> bool:
        return bool(self.waiting)

    def add(self, request: GenerationRequest) -> None:
        self.waiting.append(request.request_id)

    def cancel(self, request_id: str) -> None:
        pass

    def step(self) -> list[StepOutput]:
        self.log.append("step")
        done, self.waiting = self.waiting, []
        return [StepOutput(name, (1,), "x", "length") for name in done]

    def load(self) -> tuple[int, int]:
        return len(self.waiting), 0


class Slices:
    """Spare work of some slices; each waits until `more` is set."""

    def __init__(self, log: list[str], slices: int = 10**9) -> None:
        self.log = log
        self.left = slices
        self.begun, self.more, self.ended = threading.Event(), threading.Event(), threading.Event()

    def advance(self) -> bool:
        self.log.append("slice")
        self.begun.set()
        assert self.more.wait(10)
        self.left -= 1
        return self.left == 0

    def finish(self) -> None:
        self.log.append("finished")
        self.ended.set()

    def drop(self) -> None:
        self.log.append("dropped")
        self.ended.set()


async def answer(stream: AsyncIterator[StepOutput]) -> list[StepOutput]:
    return [output async for output in stream]


def ask(name: str) -> GenerationRequest:
    return GenerationRequest(name, (1,), SamplingParams(max_tokens=1))


def test_it_is_done_slice_by_slice_while_nobody_asks() -> None:
    log: list[str] = []
    thread = EngineThread(lambda: OneStep(log))
    thread.start(10)
    work = Slices(log, 3)
    work.more.set()
    thread.when_idle(work)
    assert work.ended.wait(10)
    assert log == ["slice", "slice", "slice", "finished"] and thread.load() == (0, 0)
    again = Slices(log, 1)
    again.more.set()
    thread.when_idle(again)
    assert again.ended.wait(10) and log[-1] == "finished", (
        "the thread wasn't free when the first was finished"
    )
    thread.close()


async def test_a_request_waits_for_one_slice_and_the_work_is_dropped() -> None:
    log: list[str] = []
    thread = EngineThread(lambda: OneStep(log))
    thread.start(10)
    work = Slices(log)
    thread.when_idle(work)
    assert await asyncio.to_thread(work.begun.wait, 10)
    asked = asyncio.create_task(answer(thread.generate(ask("r"))))
    while not thread.load()[1]:
        await asyncio.sleep(0)
    work.more.set()
    (output,) = await asked
    assert output.finish_reason == "length"
    assert log == ["slice", "dropped", "step"]
    thread.close()


async def test_it_is_refused_at_once_beside_requests_and_other_such_work() -> None:
    log: list[str] = []
    thread = EngineThread(lambda: OneStep(log))
    thread.start(10)
    first, second = Slices(log), Slices(log)
    thread.when_idle(first)
    assert await asyncio.to_thread(first.begun.wait, 10)
    thread.when_idle(second)
    assert second.ended.is_set() and log == ["slice", "dropped"]
    asked = asyncio.create_task(answer(thread.generate(ask("r"))))
    while not thread.load()[1]:
        await asyncio.sleep(0)
    third = Slices(log)
    thread.when_idle(third)
    assert third.ended.is_set()
    first.more.set()
    await asked
    thread.close()


def test_changes_between_two_steps_do_not_drop_it() -> None:
    log: list[str] = []
    thread = EngineThread(lambda: OneStep(log))
    thread.start(10)
    work = Slices(log, 2)
    thread.when_idle(work)
    assert work.begun.wait(10)
    called = thread.call(lambda engine: log.append("called"))
    work.more.set()
    called.result(10)
    assert work.ended.wait(10)
    assert log == ["slice", "called", "slice", "finished"]
    thread.close()


def test_the_end_of_the_thread_drops_it() -> None:
    log: list[str] = []
    thread = EngineThread(lambda: OneStep(log))
    thread.start(10)
    work = Slices(log)
    thread.when_idle(work)
    assert work.begun.wait(10)
    work.more.set()
    thread.close()
    assert work.ended.is_set() and log[-1] == "dropped"
    late = Slices(log)
    thread.when_idle(late)
    assert late.ended.is_set()
