"""One engine on one device, with all that makes it a member of the service. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from online_draft.buffer.records import record_of
from online_draft.buffer.writer import RecordWriter
from online_draft.core import GenerationRequest, StepOutput
from online_draft.decoding.engine import Engine
from online_draft.errors import ConfigError, EngineDead, OnlineDraftError, StoreError
from online_draft.logs import set_up_logs
from online_draft.models.artifact import load_drafter
from online_draft.models.drafter import Drafter
from online_draft.models.loading import load_target
from online_draft.monitor.arms import ArmsBoard
from online_draft.monitor.counts import PLAIN, CountsBoard
from online_draft.monitor.recent import RecentRequests
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.publisher import RollupPublisher
from online_draft.registry.journal import Decision
from online_draft.registry.revision import code_version
from online_draft.registry.wakeups import publish_wakeup
from online_draft.serve.bootstrap import ensure_first_version
from online_draft.serve.config import ServiceConfig
from online_draft.serve.details import Details
from online_draft.serve.engine_thread import EngineThread
from online_draft.serve.erasing import ErasureWatcher
from online_draft.serve.fleet.channel import Channel
from online_draft.serve.fleet.messages import ReplicaLoad
from online_draft.serve.fleet.transcript import Transcript
from online_draft.serve.following import Following
from online_draft.serve.lineup import Lineup, install_lineup, stage_lineup
from online_draft.serve.load import LoadPublisher
from online_draft.serve.membership import check_target
from online_draft.serve.prefilling import FeaturePrefill
from online_draft.serve.served_target import ServedTarget
from online_draft.serve.targets import TargetRoom
from online_draft.serve.tracing.meter import TracingMeter, meter_of
from online_draft.store import ArtifactStore, connect_redis
from online_draft.tracing import set_up_tracing, shut_down_tracing
from online_draft.training.prefill_order import PrefillOrder, PrefillReply

logger = logging.getLogger(__name__)

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


class Replica:
    """Generates, logs what it generated, follows the journal. Built from a plain dict; ready when built."""

    def __init__(self, raw_config: Mapping[str, Any], cluster: str = "") -> None:
        """Load the target, resolve the first drafter version, start all threads. Blocks for seconds.

        NodeRefused when the other nodes of the `cluster` have another target.
        """
        config = ServiceConfig.from_dict(raw_config)
        if config.dtype not in DTYPES:
            raise ConfigError("dtype", f"{config.dtype!r} is not one of {', '.join(DTYPES)}")
        self.config = config
        set_up_logs(config.log, "replica", model=config.model_name)
        self.id = f"{socket.gethostname()}-{os.getpid()}"
        self._store = store = ArtifactStore(config.store)
        origin = load_target(config.target, config.device, DTYPES[config.dtype])
        if cluster:
            check_target(store, cluster, config.target, origin.fingerprint)
        self._lineup: Lineup[Drafter] = Lineup()
        self._arms = ArmsBoard(config.keys, self.id)
        self._recent = RecentRequests()
        self._load = LoadPublisher(
            connect_redis(config.redis_url),
            config.keys,
            self.id,
            lambda: self._engine.load(),
            self._state,
            details=Details(self._recent, lambda: self._current.speculation_counts()),
        )
        set_up_tracing("replica")
        rollups = RollupBoard(self.id)
        self._meter = meter_of(rollups, self._recent)
        self._rollups = RollupPublisher(connect_redis(config.redis_url), config.keys, rollups)
        self._engine: EngineThread[Engine] = EngineThread(
            self._build_engine,
            on_busy=self._load.wake,
            hang_after_s=config.hang_after_s,
            meter=self._meter,
            target=lambda: self._target.loaded.fingerprint,
        )
        room = TargetRoom(store, origin, Path(config.cache_dir))
        self._target = ServedTarget(
            room, self._engine, self._follow, self._forget_lineup, config.poll_interval_s
        )
        with contextlib.suppress(StoreError):
            following = self._target.following
            ensure_first_version(self._target.loaded, following.registry, following.journal, config.drafter)
        self._counts = CountsBoard(config.keys, self.id)
        self._writer = RecordWriter(config.redis_url, config.keys, self.id, config.writer, self._publish)
        self._erasures = ErasureWatcher(store, self.forget_tenant, self._writer.forget)
        self._engine.start()
        self._erasures.start()
        self._load.start()
        self._rollups.start()
        try:
            self._target.start()
        except OnlineDraftError:
            self.close()
            raise

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[StepOutput, None]:
        """One item per engine step; errors and cancellation as `EngineThread.generate`.

        A finished sequence is logged before its last item is given out, unless its client opted out.
        """
        transcript = Transcript(request)
        async with contextlib.aclosing(self._engine.generate(self._switched(request))) as steps:
            async for output in steps:
                transcript.add(output)
                if output.finish_reason is not None:
                    self._record(transcript, output)
                yield output

    def connect(self) -> Channel:
        """A channel for one ingress, on the running event loop. What it finishes is logged."""
        return Channel(
            lambda order, channel: self._engine.submit(self._switched(order.request), channel),
            self._engine.cancel,
            self._record,
            self.load,
        )

    def _switched(self, request: GenerationRequest) -> GenerationRequest:
        """The request as it is to be decoded while speculation is switched off, or not."""
        return replace(request, speculate=False) if self._target.following.speculation_off else request

    def load(self) -> ReplicaLoad:
        """How busy the engine is, as of its last step."""
        running, waiting = self._engine.load()
        cache, config = self._current.cache_stats(), self.config.engine
        held = cache.blocks_held / max(1, cache.blocks)
        target = self._target.loaded.fingerprint
        return ReplicaLoad(running, waiting, config.max_sequences, config.max_queue, held, target)

    async def prefill(self, order: PrefillOrder, name: str = "") -> PrefillReply:
        """Hidden states for the learner, made while there is no request; "busy" as soon as there is one."""
        work = FeaturePrefill(order, lambda: self._target.loaded, name or self.id)
        self._engine.when_idle(work)
        return await asyncio.wrap_future(work.reply)

    def forget_tenant(self, tenant: str) -> None:
        """Erase what n-gram memory and recent requests hold of a tenant. Blocks for one step."""
        self._recent.forget(tenant)
        self._engine.call(lambda engine: engine.forget_tenant(tenant)).result()

    def update_target(self, path: str, actor: str, reason: str, drain_s: float) -> dict[str, Any]:
        """Decide that every replica takes the weights in `path`; the decision, or what is wrong. Blocks."""

        def notify(decision: Decision) -> None:
            client = connect_redis(self.config.redis_url)
            try:
                publish_wakeup(client, self.config.keys, decision)
            finally:
                client.close()

        try:
            return {"decision": asdict(self._target.room.publish(path, actor, reason, drain_s, notify))}
        except OnlineDraftError as error:
            field = error.field if isinstance(error, ConfigError) else None
            return {"refused": str(error), "field": field, "kind": type(error).__name__}

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
        self._target.close()
        self._erasures.stop()
        self._engine.close()
        self._load.close()
        self._rollups.close()
        self._writer.close()
        shut_down_tracing()

    def _state(self) -> dict[str, Any]:
        running, waiting = self._engine.load()
        books = self._writer.books()
        return {
            "replica": self.id,
            "code_version": code_version(),
            "target": self.config.target,
            "device": self.config.device,
            "dtype": self.config.dtype,
            "kernel": self._current.kernel,
            "threads": self._current.threads,
            "running": running,
            "waiting": waiting,
            "blocks_held": self._current.cache_stats().blocks_held,
            "engine_error": self._engine_error(),
            **self._target.status(),
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
        self._target.check()
        config, threads = self.config.engine, self.config.threads
        if threads is not None:
            torch.set_num_threads(threads)
            if config.threads is None:
                config = replace(config, threads=threads)
        engine = Engine(self._target.loaded, config)
        install_lineup(engine, self._lineup)
        if isinstance(self._meter, TracingMeter):
            engine.on_admission = self._meter.admitted
        self._current = engine
        return engine

    def _load_drafter(self, directory: Path) -> Drafter:
        return load_drafter(directory, self._target.loaded.target, self._target.loaded.fingerprint)

    def _install(self, lineup: Lineup[Drafter]) -> None:
        former = self._lineup

        def swap(engine: Engine) -> None:
            install_lineup(engine, lineup, former)
            self._lineup = lineup
            self._arms.begin(lineup.arms)

        if self._engine.entered:  # while the target changes
            swap(self._current)
            return
        stage_lineup(self._current, lineup, former)
        self._engine.call(swap).result()

    def _follow(self, fingerprint: str) -> Following:
        return Following(
            self.config,
            self._store,
            fingerprint,
            self.config.redis_url,
            self._engine,
            self._load_drafter,
            self._install,
        )

    def _forget_lineup(self) -> None:
        self._lineup = Lineup()

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
        counts = last.counts
        self._writer.put(
            record_of(
                request,
                last.target or self._target.loaded.fingerprint,
                transcript.tokens,
                lengths,
                counts.tried if counts else (),
                counts.accepted if counts else (),
                last.drafter_version or PLAIN,
            )
        )
