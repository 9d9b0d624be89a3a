"""The replica's end of a channel: when messages are sent, how much is held back, who is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from online_draft.core import GenerationRequest, SamplingParams, StepOutput
from online_draft.errors import CapacityError, EngineDead
from online_draft.serve.fleet import channel as channel_module
from online_draft.serve.fleet.channel import Channel
from online_draft.serve.fleet.messages import Downlink, Order, Refusal, ReplicaLoad, Uplink
from online_draft.serve.fleet.transcript import Transcript


class Engine:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.finished: list[tuple[list[int], list[int]]] = []
        self.dead = False
        self.now = 0.0

    def channel(self) -> Channel:
        return Channel(self._start, lambda name, _: self.stopped.append(name), self._finish, ReplicaLoad,
                       lambda: self.now)  # fmt: skip

    def _start(self, order: Order, _channel: Channel) -> None:
        if self.dead:
            raise EngineDead("gone")
        self.started.append(order.request.request_id)

    def _finish(self, transcript: Transcript, _last: StepOutput) -> None:
        self.finished.append((transcript.tokens, transcript.lengths))


def order(name: str, live: bool = True, emitted: tuple[int, ...] = ()) -> Order:
    request = GenerationRequest(name, (1,), SamplingParams(), emitted)
    return Order(request, (len(emitted),) if emitted else (), live)


def step(name: str, token: int, last: bool = False) -> StepOutput:
    return StepOutput(name, (token,), str(token), "stop" if last else None)


async def message(down: AsyncGenerator[Downlink, None], seconds: float = 5.0) -> list[Any]:
    got = await asyncio.wait_for(anext(down), seconds)
    return [*got.steps, *got.refusals]


async def nothing(down: AsyncGenerator[Downlink, None]) -> asyncio.Task[Downlink]:
    waiting: asyncio.Task[Downlink] = asyncio.ensure_future(anext(down))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    return waiting


async def test_a_step_is_one_message_whatever_it_holds() -> None:
    engine = Engine()
    channel = engine.channel()
    down = channel.down()
    assert await message(down) == []
    channel.up(Uplink((order("a"), order("b", emitted=(8, 9)))))
    assert await message(down) == []  # the answer
    assert engine.started == ["a", "b"]
    for name in ("a", "b", "unknown"):
        channel.take(name, step(name, 1, last=name == "b"))
    assert await message(down) == [step("a", 1), step("b", 1, True)]
    assert engine.finished == [([8, 9, 1], [2, 1])] and channel.requests == 1
    await down.aclose()
    assert engine.stopped == ["a"]


async def test_steps_that_nobody_reads_along_wait_for_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "LAZY_S", 0.5)
    channel = Engine().channel()
    down = channel.down()
    await anext(down)
    channel.up(Uplink((order("a", live=False), order("b"))))
    assert await message(down) == []
    waiting = await nothing(down)
    for token in (1, 2):
        channel.take("a", step("a", token))
        await asyncio.sleep(0.01)
        assert not waiting.done()
    assert len((await waiting).steps) == 2  # after a while
    channel.take("a", step("a", 3))
    channel.take("b", step("b", 4))
    assert len(await message(down)) == 2  # with somebody's step
    channel.take("a", step("a", 5, last=True))
    assert len(await message(down)) == 1
    await down.aclose()


async def test_an_ingress_that_is_behind_gets_fewer_and_larger_messages() -> None:
    channel = Engine().channel()
    down = channel.down()
    await anext(down)
    channel.up(Uplink((order("a"),)))
    await anext(down)
    for token in range(100):
        channel.take("a", step("a", token))
        await asyncio.sleep(0)
    assert len(await message(down)) == 100
    await down.aclose()


async def test_refusals_come_down_and_cancelled_requests_are_silent() -> None:
    engine = Engine()
    channel = engine.channel()
    down = channel.down()
    await anext(down)
    channel.up(Uplink((order("a"), order("b"), order("c"))))
    channel.up(Uplink(cancelled=("b", "b", "never")))
    assert engine.stopped == ["b"]
    channel.take("a", CapacityError("full"))
    channel.take("b", step("b", 1))
    (refusal,) = await message(down)
    assert isinstance(refusal, Refusal) and isinstance(refusal.error, CapacityError)
    engine.dead = True
    channel.up(Uplink((order("d"),)))
    (refusal,) = await message(down)
    assert refusal.request_id == "d" and isinstance(refusal.error, EngineDead)
    await down.aclose()
    assert sorted(engine.stopped) == ["b", "c"] and channel.closed


async def test_an_ingress_that_says_nothing_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "LEASE_S", 0.08)
    engine = Engine()
    channel = engine.channel()
    down = channel.down()
    await anext(down)
    channel.up(Uplink((order("a"),)))
    await anext(down)
    waiting = await nothing(down)
    engine.now = 0.1
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert channel.closed and engine.stopped == ["a"]
