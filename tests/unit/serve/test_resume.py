"""One ingress and its replicas without Ray: links, draining, and requests that outlive their replica.

Channels and engine threads are the real ones; Ray's handle is played by plain functions.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError
from transformers import PreTrainedTokenizerFast

from online_draft.core import GenerationRequest, SamplingParams, StepOutput
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import CapacityError
from online_draft.models.config import TargetConfig
from online_draft.models.loading import LoadedTarget, random_target
from online_draft.serve.engine_thread import EngineThread
from online_draft.serve.fleet.channel import Channel
from online_draft.serve.fleet.fleet import Fleet
from online_draft.serve.fleet.link import ReplicaLost
from online_draft.serve.fleet.members import MEMBERS
from online_draft.serve.fleet.messages import Address, ReplicaLoad, Uplink
from online_draft.serve.fleet.port import ChannelPort
from online_draft.serve.fleet.resume import run
from online_draft.serve.fleet.scaling import ScalingConfig

ENGINE = EngineConfig(max_sequences=8, max_queue=64, kernels="off", ngram=False)


class FakeReplica:
    """What `application.ServedReplica` is, with an engine that the test gives."""

    def __init__(self, name: str, thread: EngineThread[Any], slots: int = 8) -> None:
        self.name = name
        self.thread = thread
        self.slots = slots
        self.target = "llama-abc-def"
        self.channels: list[Channel] = []
        self.port = ChannelPort("127.0.0.1")
        self.orders: list[str] = []
        self.alive = True
        self.frozen = asyncio.Event()
        self.streams: list[FakeStream] = []

    def load(self) -> ReplicaLoad:
        running, waiting = self.thread.load()
        return ReplicaLoad(running, waiting, self.slots, 64, 0.0, self.target)

    def connect(self) -> Channel:
        channel = Listening(
            self,
            lambda order, sink: self.thread.submit(order.request, sink),
            self.thread.cancel,
            lambda transcript, last: None,
            self.load,
        )
        self.channels.append(channel)
        return channel

    async def open(self) -> AsyncIterator[Address]:
        channel = self.connect()
        yield await self.port.expect(channel)
        await channel.wait_closed()

    def kill(self) -> None:
        """As SIGKILL: streams break, and nobody is told by the replica."""
        self.alive = False
        for stream in self.streams:
            stream.broken.set()
        self.port.close()
        for channel in self.channels:
            channel.close()


class Listening(Channel):
    """Notes orders; a frozen replica hears and says nothing."""

    def __init__(self, replica: FakeReplica, *parts: Any) -> None:
        super().__init__(*parts)
        self._replica = replica

    def up(self, message: Uplink) -> None:
        if not self._replica.frozen.is_set():
            self._replica.orders += [order.request.request_id for order in message.orders]
            super().up(message)


class FakeStream:
    """Ray's response generator."""

    def __init__(self, source: AsyncIterator[Address] | None, replica: FakeReplica | None) -> None:
        self._source = source
        self.broken = asyncio.Event()
        self.cancelled = False
        if replica is not None:
            replica.streams.append(self)

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> Address:
        if self._source is None:
            raise StopAsyncIteration
        item = asyncio.ensure_future(anext(self._source))
        broken = asyncio.ensure_future(self.broken.wait())
        try:
            await asyncio.wait({item, broken}, return_when=asyncio.FIRST_COMPLETED)
            if self.broken.is_set():
                raise ActorDiedError()
            return item.result()
        finally:
            item.cancel()
            broken.cancel()

    def cancel(self) -> None:
        self.cancelled = True


class _Method:
    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call


class FakeHandle:
    """Ray Serve's handle with `serve.routing.DirectedRouter` behind it."""

    app_name = "app"
    deployment_name = "Replica"

    def __init__(self, replicas: dict[str, FakeReplica]) -> None:
        self.replicas = replicas
        self.open = _Method(self._open)

    def options(self, stream: bool) -> FakeHandle:
        assert stream
        return self

    def _open(self, to: str) -> FakeStream:
        replica = self.replicas.get(to)
        if replica is None or not replica.alive:
            return FakeStream(None, None)
        return FakeStream(replica.open(), replica)


@pytest.fixture(scope="module")
def loaded(target_dir: Path) -> LoadedTarget:
    config = TargetConfig.tiny("llama", False, 300, max_position_embeddings=256, eos_token_ids=(4,))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(target_dir / "tokenizer.json"))
    target = random_target(config, 0, torch.float64, logit_scale=4.0)
    return LoadedTarget(target, tokenizer, config, "llama-abc-def", "tiny", target_dir)


class World:
    """A deployment whose replicas come and go."""

    def __init__(self, loaded: LoadedTarget) -> None:
        self._loaded = loaded
        self.replicas: dict[str, FakeReplica] = {}
        self.handle = FakeHandle(self.replicas)
        self._fleets: list[Fleet] = []

    def add(self, name: str, engine: EngineConfig = ENGINE) -> FakeReplica:
        thread = EngineThread(lambda: Engine(self._loaded, engine))
        thread.start(60)
        replica = self.replicas[name] = FakeReplica(name, thread, engine.max_sequences)
        self.announce()
        return replica

    def announce(self, *gone: str) -> None:
        """What Ray Serve's controller would say."""
        names = [name for name, replica in self.replicas.items() if replica.alive and name not in gone]
        MEMBERS.set("app/Replica", names)

    def kill(self, name: str) -> None:
        self.replicas[name].kill()
        self.announce()

    def fleet(self, hang_after_s: float = 30.0, **scaling: float) -> Fleet:
        config = ScalingConfig(**{"resume_s": 5.0, **scaling})  # type: ignore[arg-type]
        fleet = Fleet(self.handle, config, 16, 8, hang_after_s)  # type: ignore[arg-type]
        fleet.start()
        self._fleets.append(fleet)
        return fleet

    async def close(self) -> None:
        for fleet in self._fleets:
            fleet.close()
        MEMBERS.set("app/Replica", [])
        for replica in self.replicas.values():
            replica.kill()
            await replica.port.wait_closed()
            replica.thread.close()


@pytest.fixture
async def world(loaded: LoadedTarget) -> AsyncIterator[World]:
    world = World(loaded)
    yield world
    await world.close()
    for _ in range(3):
        await asyncio.sleep(0)


def ask(name: str = "a", tokens: int = 60, **more: Any) -> GenerationRequest:
    sampling = {"temperature": 1.0, "max_tokens": tokens, "seed": 7, "ignore_eos": True}
    sampling |= more.pop("sampling", {})
    return GenerationRequest(name, tuple(range(10, 40)), SamplingParams(**sampling), **more)


async def collect(fleet: Fleet, request: GenerationRequest, live: bool = True) -> list[StepOutput]:
    return [output async for output in run(fleet, request, live)]


def whole(outputs: list[StepOutput]) -> tuple[Any, ...]:
    """What a client sees in the end."""
    return (
        [token for output in outputs for token in output.token_ids],
        "".join(output.text for output in outputs),
        [(entry.token_id, entry.rank) for output in outputs for entry in output.logprobs or ()],
        outputs[-1].finish_reason,
    )


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_requests_share_one_stream_and_keep_their_outputs_apart(world: World) -> None:
    replica = world.add("r1")
    fleet = world.fleet()
    results = await asyncio.gather(
        *(collect(fleet, ask(f"q{i}", 5 + i, sampling={"seed": i})) for i in range(6)),
        collect(fleet, ask("whole", 30), live=False),
    )
    assert [len(whole(outputs)[0]) for outputs in results] == [5, 6, 7, 8, 9, 10, 30]
    for index, outputs in enumerate(results[:6]):
        assert {output.request_id for output in outputs} == {f"q{index}"}
    assert len(replica.streams) == 1 and len(replica.orders) == 7


SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "seed": 3, "logprobs": 2},
    {"temperature": 1.0, "seed": 5, "frequency_penalty": 0.5, "min_tokens": 20, "stop": ("e",)},
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled", "penalties"])
async def test_a_killed_replicas_request_goes_on_as_if_nothing_had_happened(
    world: World, sampling: dict[str, Any]
) -> None:
    world.add("r0")
    fleet = world.fleet()
    request = ask(sampling=sampling)
    expected = whole(await collect(fleet, request))
    rng = random.Random(str(sampling))
    for number in range(1, 8):
        world.add(f"r{number}")
        await until(lambda: len(fleet.open) == 2)
        at, outputs = rng.randrange(0, 40), []
        async for output in run(fleet, request, live=True):
            outputs.append(output)
            if len(outputs) == at:
                working = [name for name, r in world.replicas.items() if r.alive and r.thread.load()[0]]
                for name in working:
                    world.kill(name)
        assert whole(outputs) == expected
        for name in [name for name, r in world.replicas.items() if r.alive][1:]:
            world.kill(name)
        await until(lambda: len(fleet.open) == 1)


async def test_usage_goes_on_and_the_prompts_logprobs_come_once(world: World) -> None:
    world.add("r0")
    world.add("r1")
    fleet = world.fleet()
    await until(lambda: len(fleet.open) == 2)
    outputs = []
    async for output in run(fleet, ask(sampling={"prompt_logprobs": 1}), live=True):
        outputs.append(output)
        if len(outputs) == 10:
            world.kill(next(name for name, r in world.replicas.items() if r.thread.load()[0]))
    counts = outputs[-1].counts
    assert counts and counts.committed == len(whole(outputs)[0]) == 60 and counts.steps == len(outputs)
    assert [output.prompt_logprobs is not None for output in outputs] == [True] + [False] * 59
    assert {output.request_id for output in outputs} == {"a"}


async def test_an_answer_is_never_continued_by_another_target(world: World) -> None:
    world.add("r0")
    fleet = world.fleet()
    with pytest.raises(ReplicaLost, match="target was updated"):
        async for _ in run(fleet, ask("long", tokens=200), True):
            if "r1" not in world.replicas:
                world.add("r1").target = "llama-other-weights"
                world.kill("r0")
    assert world.replicas["r1"].orders == []
    assert (await collect(fleet, ask("new")))[-1].finish_reason == "length"


async def test_a_request_waits_for_a_replica_and_gives_up_in_time(world: World) -> None:
    fleet = world.fleet(resume_s=0.3)
    with pytest.raises(ReplicaLost):
        await collect(fleet, ask())
    waiting = [asyncio.create_task(collect(fleet, ask(str(i), 3))) for i in range(8)]
    await asyncio.sleep(0.01)
    with pytest.raises(CapacityError):
        await collect(fleet, ask("too many"))
    world.add("late")
    assert [len(outputs) for outputs in await asyncio.gather(*waiting)] == [3] * 8


async def test_a_drained_replica_finishes_what_it_has_and_gets_nothing_new(world: World) -> None:
    first = world.add("r0")
    fleet = world.fleet()
    await until(lambda: fleet.open)
    stream = run(fleet, ask("old", 100), live=True)
    outputs = [await anext(stream)]
    world.add("r1")
    world.announce("r0")
    await until(lambda: [link.name for link in fleet.open] == ["r1"])
    assert len(await collect(fleet, ask("new", 5))) == 5
    outputs += [output async for output in stream]
    assert first.orders == ["old"] and len(whole(outputs)[0]) == 100
    await until(lambda: first.streams[0].cancelled)


async def test_what_a_drained_replica_cant_finish_goes_on_elsewhere(world: World) -> None:
    first = world.add("r0")
    fleet = world.fleet(drain_s=0.05)
    expected = whole(await collect(fleet, ask("x", 200)))
    slow_down(first)
    stream = run(fleet, ask("old", 200), live=True)
    outputs = [await anext(stream)]
    second = world.add("r1")
    world.announce("r0")
    outputs += [output async for output in stream]
    assert whole(outputs) == expected and second.orders == ["old~1"]
    await until(lambda: first.thread.load() == (0, 0))


async def test_an_engine_that_fails_once_is_no_failure_of_the_request(world: World) -> None:
    replica = world.add("r0")
    fleet = world.fleet()
    expected = whole(await collect(fleet, ask()))
    stream = run(fleet, ask(), live=True)
    outputs = [await anext(stream)]

    def break_down(engine: Any) -> None:
        engine.step = lambda: 1 // 0

    replica.thread.call(break_down)
    outputs += [output async for output in stream]
    assert whole(outputs) == expected


async def test_a_dead_engine_is_avoided(world: World) -> None:
    world.add("r0").thread.close()
    world.add("r1")
    fleet = world.fleet()
    await until(lambda: len(fleet.open) == 2)
    for number in range(4):
        assert len(await collect(fleet, ask(str(number), 3))) == 3


async def test_a_replica_that_answers_no_more_is_left(world: World) -> None:
    first = world.add("r0")
    fleet = world.fleet(hang_after_s=0.2)
    expected = whole(await collect(fleet, ask()))
    first.frozen.set()
    hanging = asyncio.create_task(collect(fleet, ask()))
    await until(lambda: fleet.open and fleet.open[0].requests)
    world.add("r1")
    assert whole(await hanging) == expected


async def test_a_service_that_ends_waits_for_nobody(world: World) -> None:
    slow_down(world.add("r0"))
    fleet = world.fleet(drain_s=0.05)
    stream = run(fleet, ask("old", 200), live=True)
    await anext(stream)
    fleet.end()
    world.announce("r0")
    with pytest.raises(ReplicaLost):
        [output async for output in stream]


async def test_a_full_replica_passes_on_and_a_full_house_refuses(world: World) -> None:
    small = EngineConfig(max_sequences=1, max_queue=0, kernels="off", ngram=False)
    for name in ("r0", "r1"):
        slow_down(world.add(name, small))
    fleet = world.fleet()
    await until(lambda: len(fleet.open) == 2)
    running = [run(fleet, ask(str(i), 200), live=True) for i in range(2)]
    for stream in running:
        await anext(stream)
    with pytest.raises(CapacityError):
        await collect(fleet, ask("third"))
    await running[0].aclose()
    await until(lambda: any(replica.thread.load() == (0, 0) for replica in world.replicas.values()))
    assert len(await collect(fleet, ask("fourth", 3))) == 3
    await running[1].aclose()


async def test_closing_a_stream_frees_its_sequence(world: World) -> None:
    replica = world.add("r0")
    slow_down(replica)
    fleet = world.fleet()
    stream = run(fleet, ask("x", 200), live=True)
    await anext(stream)
    await until(lambda: replica.thread.load() == (1, 0))
    await stream.aclose()
    await until(lambda: replica.thread.load() == (0, 0))
    replica.thread.call(lambda engine: engine.check_integrity()).result(10)


async def test_a_deadline_counts_across_replicas(world: World) -> None:
    slow_down(world.add("r0"))
    fleet = world.fleet()
    outputs = []
    async for output in run(fleet, ask(tokens=200, deadline_s=0.3), live=True):
        outputs.append(output)
        if len(outputs) == 2:
            world.kill("r0")
            slow_down(world.add("r1"))
    assert outputs[-1].finish_reason == "abort" and 2 <= len(outputs) < 40


def slow_down(replica: FakeReplica) -> None:
    """Steps of at least 10 ms."""

    def change(engine: Any) -> None:
        step = engine.step

        def slow_step() -> Any:
            time.sleep(0.01)
            return step()

        engine.step = slow_step

    replica.thread.call(change).result(10)
