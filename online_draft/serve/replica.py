"""One engine on one device, with all that makes it a member of the service. Knows nothing of Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from online_draft.buffer.writer import RecordWriter
from online_draft.core import GenerationRequest, Interaction, StepOutput
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError, OnlineDraftError, StoreError
from online_draft.logs import set_up_logs
from online_draft.models.artifact import load_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import load_target
from online_draft.monitor.arms import ArmsBoard
from online_draft.monitor.counts import PLAIN, CountsBoard
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.publisher import RollupPublisher
from online_draft.monitor.rollups.traffic_meter import TrafficMeter
from online_draft.registry.adapters import AdapterRegistry
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.wakeups import START, wait_for_wakeup
from online_draft.serve.adapters import AdapterWatcher
from online_draft.serve.bootstrap import ensure_first_version
from online_draft.serve.config import ServiceConfig
from online_draft.serve.engine_thread import EngineDead, EngineThread
from online_draft.serve.erasing import ErasureWatcher
from online_draft.serve.fleet.channel import Channel
from online_draft.serve.fleet.messages import ReplicaLoad
from online_draft.serve.fleet.transcript import Transcript
from online_draft.serve.lineup import Lineup, install_lineup, stage_lineup
from online_draft.serve.load import LoadPublisher
from online_draft.serve.weights import WeightWatcher
from online_draft.store import ArtifactStore, connect_redis

logger = logging.getLogger(__name__)

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
FIRST_RESOLUTION_TIMEOUT_S = 30.0


class Replica:
    """Generates, logs what it generated, follows the journal. Built from a plain dict; ready when built."""

    def __init__(self, raw_config: Mapping[str, Any]) -> None:
        """Load the target, resolve the first drafter version, start all threads. Blocks for seconds."""
        config = ServiceConfig.from_dict(raw_config)
        if config.dtype not in DTYPES:
            raise ConfigError("dtype", f"{config.dtype!r} is not one of {', '.join(DTYPES)}")
        self.config = config
        set_up_logs(config.log, "replica", model=config.model_name)
        self.id = f"{socket.gethostname()}-{os.getpid()}"
        self._loaded = load_target(config.target, config.device, DTYPES[config.dtype])
        store = ArtifactStore(config.store)
        registry = DrafterRegistry(store, self._loaded.fingerprint)
        journal = DecisionJournal(store, self._loaded.fingerprint)
        with contextlib.suppress(StoreError):
            ensure_first_version(self._loaded, registry, journal, config.drafter)
        self._lineup: Lineup[Drafter] = Lineup()
        self._arms = ArmsBoard(config.keys, self.id)
        self._load = LoadPublisher(
            connect_redis(config.redis_url), config.keys, self.id, lambda: self._engine.load(), self._state
        )
        rollups = RollupBoard(self.id)
        self._rollups = RollupPublisher(connect_redis(config.redis_url), config.keys, rollups)
        self._engine: EngineThread[Engine] = EngineThread(
            self._build_engine,
            on_busy=self._load.wake,
            hang_after_s=config.hang_after_s,
            meter=TrafficMeter(rollups),
        )
        self._adapters = AdapterWatcher(
            AdapterRegistry(store, self._loaded.fingerprint),
            Path(config.cache_dir) / f"{self._loaded.fingerprint}-adapters",
            self._engine,
        )
        self._watcher = WeightWatcher(
            journal,
            registry,
            Path(config.cache_dir) / self._loaded.fingerprint,
            self._load_drafter,
            self._install,
            _WakeupHint(config),
            config.poll_interval_s,
            then=self._adapters.follow,
        )
        self._counts = CountsBoard(config.keys, self.id)
        self._writer = RecordWriter(config.redis_url, config.keys, self.id, config.writer, self._publish)
        self._erasures = ErasureWatcher(store, self.forget_tenant, self._writer.forget)
        self._engine.start()
        self._erasures.start()
        self._watcher.start()
        self._load.start()
        self._rollups.start()
        if not self._watcher.ready.wait(FIRST_RESOLUTION_TIMEOUT_S):
            reason = self._watcher.status()["journal_error"] or self._watcher.status()["unusable"]
            self.close()
            raise OnlineDraftError(f"no drafter version could be resolved: {reason}")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[StepOutput, None]:
        """One item per engine step; errors and cancellation as `EngineThread.generate`.

        A finished sequence is logged before its last item is given out, unless its client opted out.
        """
        transcript = Transcript(request)
        async with contextlib.aclosing(self._engine.generate(request)) as steps:
            async for output in steps:
                transcript.add(output)
                if output.finish_reason is not None:
                    self._record(transcript, output)
                yield output

    def connect(self) -> Channel:
        """A channel for one ingress, on the running event loop. What it finishes is logged."""
        return Channel(
            lambda order, channel: self._engine.submit(order.request, channel),
            self._engine.cancel,
            self._record,
            self.load,
        )

    def load(self) -> ReplicaLoad:
        """How busy the engine is, as of its last step."""
        running, waiting = self._engine.load()
        cache, config = self._current.cache_stats(), self.config.engine
        held = cache.blocks_held / max(1, cache.blocks)
        return ReplicaLoad(running, waiting, config.max_sequences, config.max_queue, held)

    def forget_tenant(self, tenant: str) -> None:
        """Erase what the engine's n-gram memory holds of a tenant. Blocks for one step."""
        self._engine.call(lambda engine: engine.forget_tenant(tenant)).result()

    def status(self) -> dict[str, Any]:
        """Plain data for `/health` and the admin API."""
        return self._state()

    def check_integrity(self) -> dict[str, int]:
        """AssertionError when the engine's books don't balance; else what it holds now."""

        def check(engine: Engine) -> dict[str, int]:
            engine.check_integrity()
            return {"blocks_held": engine.cache_stats().blocks_held, "requests": sum(engine.load())}

        return self._engine.call(check).result(30.0)

    def check_health(self) -> None:
        """Raise when the engine's thread is dead or hangs; Ray Serve then replaces this replica."""
        self._engine.check()

    def close(self) -> None:
        """Stop all threads; what is queued for Redis is written out. Idempotent."""
        self._watcher.stop()
        self._erasures.stop()
        self._engine.close()
        self._load.close()
        self._rollups.close()
        self._writer.close()

    def _state(self) -> dict[str, Any]:
        running, waiting = self._engine.load()
        books = self._writer.books()
        return {
            "replica": self.id,
            "target": self.config.target,
            "fingerprint": self._loaded.fingerprint,
            "device": self.config.device,
            "dtype": self.config.dtype,
            "kernel": self._current.kernel,
            "threads": self._current.threads,
            "running": running,
            "waiting": waiting,
            "engine_error": self._engine_error(),
            **self._watcher.status(),
            "adapters": self._adapters.status(),
            "erasures": self._erasures.status(),
            "records": {
                "produced": books.produced,
                "stored": books.stored,
                "spooled": books.spooled,
                "dropped": books.dropped,
                "opted_out": books.opted_out,
                "erased": books.erased,
            },
        }

    def _engine_error(self) -> str | None:
        """Why the engine serves no more, None while it does."""
        try:
            self._engine.check()
        except EngineDead as error:
            return str(error)
        return None

    def _build_engine(self) -> Engine:
        """Runs on the engine's thread, at start and after a failure."""
        config, threads = self.config.engine, self.config.threads
        if threads is not None:
            torch.set_num_threads(threads)
            if config.threads is None:
                config = replace(config, threads=threads)
        engine = Engine(self._loaded, config)
        install_lineup(engine, self._lineup)
        self._current = engine
        return engine

    def _load_drafter(self, directory: Path) -> Drafter:
        return load_drafter(directory, self._loaded.target, self._loaded.fingerprint)

    def _install(self, lineup: Lineup[Drafter]) -> None:
        former = self._lineup

        def swap(engine: Engine) -> None:
            install_lineup(engine, lineup, former)
            self._lineup = lineup
            self._arms.begin(lineup.arms)

        stage_lineup(self._current, lineup, former)
        self._engine.call(swap).result()

    def _publish(self, pipeline: Any, everything: bool) -> None:
        self._counts.publish(pipeline, everything)
        self._arms.publish(pipeline, everything)

    def _record(self, transcript: Transcript, last: StepOutput) -> None:
        if last.finish_reason not in ("stop", "length"):
            return
        request, lengths = transcript.request, transcript.lengths
        if last.counts is not None:
            self._counts.add(request.segment, last.drafter_version, last.counts)
            if not last.by_version:
                self._arms.add(request.segment, last.drafter_version, last.counts, transcript.started)
        if not request.learn or self._erasures.covers(request.tenant, transcript.started):
            self._writer.opt_out()
            return
        if sum(lengths) != len(transcript.tokens):
            return  # resumed by somebody who doesn't know the steps before
        sampling = request.sampling
        self._writer.put(
            Interaction(
                target=self._loaded.fingerprint,
                tenant=request.tenant,
                segment=request.segment,
                prompt_ids=request.prompt_ids,
                output_ids=tuple(transcript.tokens),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                seed=sampling.seed,
                prompt_index=request.prompt_index,
                choice_index=request.choice_index,
                accepted_lengths=tuple(lengths),
                tried=tuple(last.counts.tried) if last.counts else (),
                accepted=tuple(last.counts.accepted) if last.counts else (),
                drafter_version=last.drafter_version or PLAIN,
                finished_at_ms=time.time_ns() // 1_000_000,
            )
        )


class _WakeupHint:
    """Waits for a decision's wake-up in Redis, or just waits while Redis is away."""

    def __init__(self, config: ServiceConfig) -> None:
        self._client = connect_redis(config.redis_url)
        self._keys = config.keys
        self._after = START

    def __call__(self, seconds: float) -> None:
        try:
            after = wait_for_wakeup(self._client, self._keys, self._after, int(seconds * 1000))
            self._after = after or self._after
        except StoreError:
            self._after = START
            time.sleep(seconds)
