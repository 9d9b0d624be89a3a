"""A replica without an engine: all of it that talks to Redis and the artifact store, as it is in service."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from online_draft.bench.scale.options import ScaleOptions
from online_draft.buffer.writer import RecordWriter
from online_draft.core import GenerationRequest, Interaction, SpeculationCounts, StepOutput
from online_draft.monitor.arms import ArmsBoard
from online_draft.monitor.counts import CountsBoard
from online_draft.monitor.recent import RecentRequests
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.publisher import RollupPublisher
from online_draft.monitor.rollups.traffic_meter import TrafficMeter
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.target_line import TargetLine
from online_draft.serve.details import Details
from online_draft.serve.erasing import ErasureWatcher
from online_draft.serve.following import WakeupHint
from online_draft.serve.lineup import Lineup
from online_draft.serve.load import LoadPublisher
from online_draft.serve.target_watcher import TargetWatcher
from online_draft.serve.weights import WeightWatcher
from online_draft.store import ArtifactStore, RedisKeys, connect_redis

POLL_S = 1.0
"""As in `ServiceConfig.poll_interval_s`."""

STEPS = 20
"""Outputs of a request; τ is 2.5."""
_COUNTS = SpeculationCounts(STEPS, 50, 160, [20, 12, 7, 4], [12, 7, 4, 2], 10, [1])


class SimulatedReplica:
    """Follows the journal, says its load and its counts, and writes records; decodes nothing."""

    def __init__(
        self,
        number: int,
        options: ScaleOptions,
        store: ArtifactStore,
        target: str,
        redis_url: str,
        keys: RedisKeys,
        cache: Path,
    ) -> None:
        self.id = f"node-{number:04d}-{4000 + number}"
        self._options = options
        self._target = target
        self.installed: dict[str, float] = {}
        """When (`time.perf_counter`) each version was installed."""
        self.busy = False
        self.requests = 0
        self._watcher: WeightWatcher[int] = WeightWatcher(
            DecisionJournal(store, target),
            DrafterRegistry(store, target),
            cache / str(number),
            lambda directory: len(list(directory.iterdir())),
            self._install,
            WakeupHint(redis_url, keys),
            POLL_S,
            fetch_spread_s=options.spread,
        )
        self._line = TargetWatcher(TargetLine(store, target), lambda: target, _never, POLL_S)
        self._erasures = ErasureWatcher(store, lambda tenant: None)
        self._rng, self._now_s = random.Random(number), 0.0
        recent, board = RecentRequests(), RollupBoard(self.id)
        self._meter = TrafficMeter(board, self._later, recent)
        self._load = LoadPublisher(
            connect_redis(redis_url),
            keys,
            self.id,
            lambda: (int(self.busy), 0),
            self._status,
            details=Details(recent, self._policy),
        )
        self._rollups = RollupPublisher(connect_redis(redis_url), keys, board)
        self._counts = CountsBoard(keys, self.id)
        self._arms = ArmsBoard(keys, self.id)
        self.writer = RecordWriter(redis_url, keys, self.id, publish=self._publish)

    def start(self) -> None:
        """Start all threads."""
        self._watcher.start()
        self._line.start()
        self._erasures.start()
        self._load.start()
        self._rollups.start()

    def stop(self) -> None:
        """End all threads. Idempotent."""
        for part in (self._watcher, self._line, self._erasures):
            part.stop(2 * POLL_S)
        self._load.close()
        self._rollups.close()
        self.writer.close(1.0)

    def finish_request(self) -> None:
        """What happens at the end of a request and during its steps, all at once."""
        self.requests += 1
        segment = f"segment-{self.requests % self._options.segments}"
        version = self._watcher.running.version
        prompt = self._options.tokens - 50
        name = f"chatcmpl-{self.id}-{self.requests:016x}"
        self._meter.begin(GenerationRequest(name, (1,) * prompt, segment=segment), self._now_s)
        for step in range(STEPS - 1):
            self._meter.step(StepOutput(name, (1,) * (2 + step % 2), ""))
        self._meter.step(StepOutput(name, (1, 2, 3), "", "length", _COUNTS, version))
        self._counts.add(segment, version, _COUNTS)
        self._arms.add(segment, version, _COUNTS, time.monotonic())
        self.writer.put(self._interaction(segment, version or "none", prompt))

    def _interaction(self, segment: str, version: str, prompt: int) -> Interaction:
        lengths = tuple([2, 3] * (STEPS // 2))
        first = self.requests * 31 + sum(self.id.encode())
        return Interaction(
            target=self._target,
            tenant="default",
            segment=segment,
            prompt_ids=tuple((first * (place + 7)) % 50_000 for place in range(prompt)),
            output_ids=tuple((first + 11 * place) % 50_000 for place in range(sum(lengths))),
            temperature=0.7,
            top_p=1.0,
            top_k=0,
            seed=self.requests,
            prompt_index=0,
            choice_index=0,
            accepted_lengths=lengths,
            tried=tuple(_COUNTS.tried),
            accepted=tuple(_COUNTS.accepted),
            drafter_version=version,
            finished_at_ms=time.time_ns() // 1_000_000,
        )

    def _install(self, lineup: Lineup[int]) -> None:
        self._arms.begin(lineup.arms)
        for version in (lineup.version, lineup.second_version):
            if version is not None:
                self.installed.setdefault(version, time.perf_counter())

    def _publish(self, pipeline: Any, everything: bool) -> None:
        self._counts.publish(pipeline, everything)
        self._arms.publish(pipeline, everything)

    def _later(self) -> float:
        """Requests take no time here; their outputs are said to come 10 to 60 ms apart."""
        self._now_s += self._rng.uniform(0.01, 0.06)
        return self._now_s

    def _policy(self) -> dict[str, Any]:
        """As long as what an engine counts."""
        spent = 500_000 * self.requests
        sources = {name: [9 * self.requests] * 10 for name in ("heads", "ngram")}
        return {
            "version": self._watcher.running.version,
            "spent_us": spent,
            "plain_us": 2 * spent,
            "sources": sources,
        }

    def _status(self) -> dict[str, Any]:
        """As long as a replica's."""
        books = self.writer.books()
        return {
            "replica": self.id,
            "target": "org/some-target",
            "device": "cuda",
            "dtype": "bfloat16",
            "kernel": "graphed",
            "threads": 1,
            "running": int(self.busy),
            "waiting": 0,
            "blocks_held": 100,
            "engine_error": None,
            "fingerprint": self._target,
            "origin": self._target,
            "target_update": self._line.status(),
            **self._watcher.status(),
            "adapters": {"loaded": {}, "decided": {}, "unusable": {}},
            "erasures": self._erasures.status(),
            "records": {name: getattr(books, name) for name in ("produced", "stored", "spooled", "dropped")},
        }


def _never(decision: Decision) -> None:
    raise AssertionError(f"no target is updated here: {decision}")
