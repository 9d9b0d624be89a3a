"""A replica without Ray: real engine, real Redis or none, and what the journal decides meanwhile."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from online_draft.buffer.records import decode
from online_draft.core import GenerationRequest, SamplingParams, StepOutput
from online_draft.decoding.config import EngineConfig
from online_draft.errors import EngineDead
from online_draft.models.artifact import new_drafter, save_drafter
from online_draft.models.loading import load_target
from online_draft.monitor.counts import read_counts
from online_draft.monitor.load import read_loads
from online_draft.monitor.rollups.reader import read_rollup
from online_draft.monitor.rollups.resolutions import RESOLUTIONS
from online_draft.monitor.rollups.traffic_counts import LIVE, TrafficCounts
from online_draft.monitor.rollups.traffic_rows import from_row, to_row
from online_draft.redis_server import PrivateRedis
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal, DecisionKind
from online_draft.registry.ladder import Choice, decide_with_retry
from online_draft.registry.manifest import Provenance
from online_draft.serve.config import ServiceConfig
from online_draft.serve.replica import Replica
from online_draft.store import ArtifactStore, RedisKeys, connect_redis


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with PrivateRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@contextmanager
def replica_at(
    root: Path,
    tiny: Path,
    redis_url: str,
    prefix: str,
    kernels: Literal["auto", "wait", "off"] = "auto",
    **more: Any,
) -> Iterator[Replica]:
    config = ServiceConfig(
        target=str(tiny),
        model_name="tiny",
        store=str(root / "store"),
        cache_dir=str(root / "cache"),
        redis_url=redis_url,
        redis_prefix=prefix,
        admin_key="k",
        threads=1,
        poll_interval_s=0.05,
        # Without the n-gram memory: it would know the answer when a test asks twice.
        engine=EngineConfig(max_sequences=4, max_queue=4, speculation="always", kernels=kernels, ngram=False),
        **more,
    )
    replica = Replica(config.as_dict())
    try:
        yield replica
    finally:
        replica.close()


def ask(name: str, seed: int = 0, **more: Any) -> GenerationRequest:
    sampling = SamplingParams(temperature=1.0, max_tokens=60, seed=seed, ignore_eos=True)
    return GenerationRequest(name, tuple(range(10, 30)), sampling, segment="stories", **more)


async def collect(replica: Replica, request: GenerationRequest) -> list[StepOutput]:
    return [output async for output in replica.generate(request)]


def ids(outputs: list[StepOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def sum_of(buckets: dict[int, TrafficCounts]) -> TrafficCounts:
    total = TrafficCounts()
    for bucket in buckets.values():
        total.add(bucket)
    return total


async def test_switched_off_speculation_stays_off_in_the_next_replica(
    tmp_path: Path, tiny: Path, redis_url: str
) -> None:
    def switch(kind: DecisionKind) -> None:
        decide_with_retry(journal, lambda _: Choice(kind, None, actor="admin"))

    with replica_at(tmp_path, tiny, redis_url, "switch", "off") as replica:
        journal = DecisionJournal(ArtifactStore(tmp_path / "store"), replica.status()["fingerprint"])
        drafted = await collect(replica, ask("a"))
        switch("speculation_off")
        await until(lambda: bool(replica.status()["speculation_off"]))
        plain = await collect(replica, ask("b"))
    with replica_at(tmp_path, tiny, redis_url, "switch", "off") as replica:
        after = await collect(replica, ask("c"))
        switch("speculation_on")
        await until(lambda: not replica.status()["speculation_off"])
        again = await collect(replica, ask("d"))
    assert ids(drafted) == ids(plain) == ids(after) == ids(again)
    counts = [outputs[-1].counts for outputs in (drafted, plain, after, again)]
    assert [bool(count and count.drafted) for count in counts] == [True, False, False, True]
    steps = [output.draft for output in drafted if output.draft is not None]
    assert counts[0] is not None and sum(nodes for nodes, _ in steps) == counts[0].drafted
    assert sum(accepted for _, accepted in steps) == counts[0].accepted_tokens


async def test_what_was_served_is_logged_with_its_counts(tmp_path: Path, tiny: Path, redis_url: str) -> None:
    keys = RedisKeys("logged")
    client = connect_redis(redis_url)
    with replica_at(tmp_path, tiny, redis_url, "logged") as replica:
        outputs = await collect(replica, ask("a", seed=3))
        await collect(replica, ask("b", learn=False))
        plain = await collect(replica, ask("c", seed=3, speculate=False))
        assert ids(plain) == ids(outputs)
    entries: Any = client.xrange(keys.records)
    records = [decode(fields[b"d"]) for _id, fields in entries]
    assert [record.seed for record in records] == [3, 3]
    assert list(records[0].output_ids) == ids(outputs)
    assert records[0].drafter_version == "untrained" and records[1].drafter_version == "none"
    assert records[0].accepted_lengths == tuple(len(output.token_ids) for output in outputs)
    counts = read_counts(client, keys)["stories"]
    assert counts["untrained"].requests == 2 and counts["none"].requests == 1
    now = int(time.time())
    for resolution in RESOLUTIONS:
        series = read_rollup(client, keys, now - 120, now + 1, resolution.seconds, by=("segment", "version"))
        untrained = sum_of(series["stories", "untrained"])
        total = TrafficCounts(speculation=counts["untrained"].speculation)
        assert untrained.requests == 2
        assert untrained.speculation == from_row(to_row(total)).speculation  # depths without any left out
        live = sum_of(series["stories", LIVE])
        assert live.tokens == 3 * len(ids(outputs)) and sum(live.first_token) == 3 and live.errors == {}
    assert read_loads(client, keys, 0) == {}
    client.close()


def slow_down(engine: Any) -> None:
    """Steps of at least 30 ms, so that swaps fall between the steps of one request."""
    step = engine.step

    def slow_step() -> list[StepOutput]:
        time.sleep(0.03)
        outputs: list[StepOutput] = step()
        return outputs

    engine.step = slow_step


async def test_swaps_in_the_middle_change_no_token(tmp_path: Path, tiny: Path, redis_url: str) -> None:
    loaded = load_target(tiny)
    store = ArtifactStore(tmp_path / "store")
    registry, journal = DrafterRegistry(store, loaded.fingerprint), DecisionJournal(store, loaded.fingerprint)
    with replica_at(tmp_path, tiny, redis_url, "swaps") as replica:
        expected = ids(await collect(replica, ask("plain", speculate=False)))
        versions = []
        for seed in (1, 2):
            directory = tmp_path / f"made-{seed}"
            save_drafter(new_drafter("medusa", loaded.target, seed=seed), directory, loaded.fingerprint)
            versions.append(registry.publish(directory, Provenance()))
        replica._engine.call(slow_down).result(10)
        tokens: list[int] = []
        async for output in replica.generate(ask("swapped")):
            tokens += output.token_ids
            if versions and len(tokens) > 10:
                version = versions.pop(0)
                decide_with_retry(journal, lambda _, v=version: Choice("promote", v, actor="admin"))  # type: ignore[misc]
                await until(lambda v=version: replica.status()["drafter_version"] == v)  # type: ignore[misc]
                assert replica.status()["running"] == 1
        assert tokens == expected
        assert replica.status()["swaps"] == 3


async def test_a_replica_serves_where_redis_is_not(tmp_path: Path, tiny: Path) -> None:
    with replica_at(tmp_path, tiny, f"unix://{tmp_path}/nobody.sock", "away") as replica:
        for name in "abc":
            assert len(ids(await collect(replica, ask(name)))) == 60
        books = replica.status()["records"]
        assert (books["produced"], books["stored"], books["spooled"]) == (3, 0, 3)
        replica.check_health()


async def test_threads_of_the_service_are_those_of_compiled_code(
    tmp_path: Path, tiny: Path, redis_url: str
) -> None:
    with replica_at(tmp_path, tiny, redis_url, "threads") as replica:
        config = replica._engine.call(lambda engine: engine.config).result(10)
        assert config.threads == replica.config.threads == 1


@pytest.mark.parametrize(("kernels", "kernel"), [("wait", "native"), ("off", "eager")])
def test_the_status_says_what_runs_the_engine(
    tmp_path: Path,
    tiny: Path,
    redis_url: str,
    library: ctypes.CDLL,
    monkeypatch: pytest.MonkeyPatch,
    kernels: Literal["wait", "off"],
    kernel: str,
) -> None:
    with replica_at(tmp_path, tiny, redis_url, f"kernel-{kernels}", kernels) as replica:
        monkeypatch.setattr("torch.get_num_threads", lambda: 99)
        status = replica.status()
        assert (status["kernel"], status["threads"]) == (kernel, 1)


async def test_an_engine_that_fails_is_rebuilt_with_its_drafter(
    tmp_path: Path, tiny: Path, redis_url: str
) -> None:
    with replica_at(tmp_path, tiny, redis_url, "rebuilt") as replica:
        expected = ids(await collect(replica, ask("a")))
        stream = replica.generate(ask("b"))
        await anext(stream)

        def break_down(engine: Any) -> None:
            engine.step = lambda: 1 // 0

        replica._engine.call(break_down)
        rest = [output async for output in stream]
        assert rest[-1].finish_reason == "error"
        outputs = await collect(replica, ask("c"))
        assert ids(outputs) == expected and outputs[-1].drafter_version == "untrained"
        replica.check_health()
        assert replica.status()["records"]["produced"] == 2


async def test_a_closed_replica_is_unhealthy(tmp_path: Path, tiny: Path, redis_url: str) -> None:
    with replica_at(tmp_path, tiny, redis_url, "closed") as replica:
        replica.close()
        with pytest.raises(EngineDead):
            replica.check_health()
        with pytest.raises(EngineDead):
            await collect(replica, ask("a"))
