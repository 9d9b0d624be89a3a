"""Adapters come and go by decision while a service answers, and no stream notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from online_draft.core import GenerationRequest, SamplingParams, StepOutput
from online_draft.decoding.config import EngineConfig
from online_draft.models.artifact import load_drafter
from online_draft.redis_server import PrivateRedis
from online_draft.registry.adapters import AdapterRegistry
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.manifest import Provenance
from online_draft.serve.admin.adapters import AdapterDesk
from online_draft.serve.admin.desk import AdminDesk
from online_draft.serve.config import ServiceConfig
from online_draft.serve.replica import Replica
from online_draft.store import ArtifactStore, RedisKeys

STREAMS = 8
TOKENS = 60


class Service:
    """A replica and the desk of its operator."""

    def __init__(
        self, root: Path, tiny: Path, redis_url: str, make: Callable[..., Any], save: Callable[..., Path]
    ) -> None:
        self.root, self._make, self._save = root, make, save
        engine = EngineConfig(max_sequences=STREAMS, speculation="always", kernels="off", ngram=False)
        config = ServiceConfig(
            target=str(tiny), model_name="tiny", store=str(root / "store"), cache_dir=str(root / "cache"),
            redis_url=redis_url, admin_key="k", threads=1, poll_interval_s=0.05, engine=engine,
        )  # fmt: skip
        self.replica = Replica(config.as_dict())
        self.fingerprint = str(self.replica.status()["fingerprint"])
        self.desk = AdminDesk(str(root / "store"), self.fingerprint, redis_url, RedisKeys())
        self.adapters = AdapterDesk(self.desk)
        self.pause_s = 0.0
        self.engine(self._slow_down)

    def engine(self, change: Callable[[Any], Any]) -> Any:
        return self.replica._engine.call(change).result(10)

    def publish(self, segment: str, seed: int = 0) -> str:
        store, base = ArtifactStore(self.root / "store"), str(self.desk.state().champion)
        DrafterRegistry(store, self.fingerprint).fetch(base, self.root / base)
        adapter = self._make(load_drafter(self.root / base), segment, seed=seed)
        directory = self._save(adapter, self.root / f"{segment}-{seed}", target=self.fingerprint)
        return AdapterRegistry(store, self.fingerprint).publish(directory, base, Provenance())

    async def streams(
        self, between: Callable[[], Any] | None = None
    ) -> tuple[list[list[int]], list[StepOutput]]:
        """Tokens and last outputs of 8 streams of segment "stories"; `between` runs while all of them do."""
        begun = [asyncio.Event() for _ in range(STREAMS)]

        async def one(index: int) -> tuple[list[int], StepOutput]:
            sampling = SamplingParams(
                temperature=(0.0, 1.0)[index % 2], max_tokens=TOKENS, seed=index, ignore_eos=True
            )
            request = GenerationRequest(
                f"{index}-{time.monotonic_ns()}", tuple(range(index, index + 20)), sampling, segment="stories"
            )
            tokens: list[int] = []
            async for output in self.replica.generate(request):
                tokens += output.token_ids
                begun[index].set()
            return tokens, output

        self.pause_s = 0.0 if between is None else 0.25
        tasks = [asyncio.create_task(one(index)) for index in range(STREAMS)]
        for event in begun:
            await event.wait()
        if between is not None:
            async with asyncio.timeout(20):
                while self.replica.status()["running"] < STREAMS:
                    await asyncio.sleep(0.01)
            await between()
            assert not any(task.done() for task in tasks), "it came too late to disturb anybody"
            self.pause_s = 0.0
        done = await asyncio.gather(*tasks)
        return [tokens for tokens, _ in done], [last for _, last in done]

    def _slow_down(self, engine: Any) -> None:
        """Steps that take long while something is to happen between them."""
        step = engine.step

        def slow_step() -> list[StepOutput]:
            time.sleep(self.pause_s)
            outputs: list[StepOutput] = step()
            return outputs

        engine.step = slow_step

    async def loaded(self, **expected: str) -> None:
        async with asyncio.timeout(20):
            while self.replica.status()["adapters"]["loaded"] != expected:
                await asyncio.sleep(0.01)


@pytest.fixture
def service(
    tmp_path: Path,
    tiny: Path,
    redis_server: PrivateRedis,
    make_adapter: Callable[..., Any],
    save_adapter: Callable[..., Path],
) -> Iterator[Service]:
    made = Service(tmp_path, tiny, redis_server.url, make_adapter, save_adapter)
    yield made
    made.replica.close()


async def test_loading_an_adapter_while_eight_streams_run_disturbs_none(service: Service) -> None:
    own, other = service.publish("stories"), service.publish("sql", seed=1)
    service.adapters.load(own, "admin", "test")
    await service.loaded(stories=own)
    expected, _ = await service.streams()

    async def load_and_drop() -> None:
        service.adapters.load(other, "admin", "test")
        await service.loaded(stories=own, sql=other)
        before = service.engine(_places)
        service.adapters.drop("sql", "admin", "test")
        await service.loaded(stories=own)
        assert service.engine(_places) == before
        assert service.replica.status()["running"] == STREAMS

    tokens, last = await service.streams(load_and_drop)
    assert tokens == expected
    assert [output.finish_reason for output in last] == ["length"] * STREAMS
    assert all(len(each) == TOKENS for each in tokens)
    report = service.engine(lambda engine: engine.adapters.report())
    assert report["reassigned"] == 0, "a stream's drafter had to start again"
    assert len({output.drafter_version for output in last}) == 1


async def test_streams_that_get_or_lose_their_own_adapter_say_the_same(service: Service) -> None:
    own, bad = service.publish("stories"), service.publish("stories", seed=1)
    expected, _ = await service.streams()

    async def come_and_go() -> None:
        service.adapters.load(own, "admin", "test")
        await service.loaded(stories=own)
        about = {"segment": "stories", "base": service.desk.state().champion}
        service.desk.decide("adapter_load", bad, "admin", "test", numbers=about)

    path = f"registry/{service.fingerprint}/adapters/{bad}/adapter_model.safetensors"
    service.desk.registry.store.write_bytes(path, b"damaged")
    tokens, _ = await service.streams(come_and_go)
    assert tokens == expected
    async with asyncio.timeout(20):
        while bad not in service.replica.status()["adapters"]["unusable"]:
            await asyncio.sleep(0.01)
    adapters = service.replica.status()["adapters"]
    assert adapters["loaded"] == {"stories": own} and adapters["decided"] == {"stories": bad}
    assert "expected" in adapters["unusable"][bad]
    assert (await service.streams())[0] == expected


def _places(engine: Any) -> list[int]:
    """Which adapter each slot drafts with, and how often its drafter had to start again."""
    state = engine._arms.champion.state
    return [*state.place, *state.epoch]
