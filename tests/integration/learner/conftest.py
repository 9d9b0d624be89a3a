"""A service as its learner sees it: artifact store, journal, records and load in a real Redis."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.buffer.writer import RecordWriter
from online_draft.control.config import ControlConfig, ControlPlace
from online_draft.control.loop import ControlLoop
from online_draft.core import Interaction
from online_draft.learner.config import GateConfig, LearnerConfig, LearnerPlace, PaceConfig
from online_draft.learner.loop import LearnerLoop
from online_draft.models.artifact import save_drafter
from online_draft.monitor.load import Load, publish_load
from online_draft.redis_server import PrivateRedis
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal, DecisionKind
from online_draft.registry.ladder import LadderState, decide, fold
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore, RedisKeys, connect_redis

CONFIG = LearnerConfig(
    pace=PaceConfig(idle_ms=1, slice_ms=200, passes=100, poll_ms=1, read_every_ms=1, checkpoint_every_s=0.2),
    gate=GateConfig(every_slices=30, min_records=16, max_records=48, resamples=500, refuse_every_s=0.001),
    reservoirs=ReservoirConfig(held_out_fraction=0.3),
    learning_rate=3e-3,
    warmup_steps=5,
)


@dataclass
class Service:
    """What a learner sees of the world."""

    directory: Path
    redis: PrivateRedis
    traffic: Any
    keys: RedisKeys = field(default_factory=RedisKeys)
    loops: list[LearnerLoop] = field(default_factory=list)

    def __post_init__(self) -> None:
        loaded = self.traffic.loaded
        self.store = ArtifactStore(self.directory / "store")
        self.registry = DrafterRegistry(self.store, loaded.fingerprint)
        self.journal = DecisionJournal(self.store, loaded.fingerprint)
        self.client = connect_redis(self.redis.url)
        with tempfile.TemporaryDirectory() as scratch:
            save_drafter(self.traffic.drafter(), scratch, loaded.fingerprint)
            self.registry.publish(Path(scratch), Provenance(), name="start")
        self.decide("promote", "start", "bootstrap")
        self.writer = RecordWriter(self.redis.url, self.keys, "test")

    @property
    def place(self) -> LearnerPlace:
        return LearnerPlace(
            "tiny", str(self.directory / "store"), str(self.directory / "cache"), self.redis.url, tree_nodes=8
        )

    @property
    def state(self) -> LadderState:
        return fold(self.journal.read())

    def decide(self, kind: DecisionKind, version: str | None, actor: str = "admin") -> Decision:
        return decide(self.journal, self.state.seq, kind, version, actor, "test")

    def log(self, interactions: list[Interaction]) -> None:
        """As serving does; all of them are in Redis on return."""
        for interaction in interactions:
            self.writer.put(interaction)
        deadline = time.monotonic() + 10
        while self.writer.books().spooled:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def serve(self, requests: int = 150, seed: int = 0, **changes: Any) -> None:
        """Log fresh traffic of segment a."""
        self.log([replace(record, **changes) for record in self.traffic.interactions(requests, seed=seed)])

    def say_load(self, running: int, replica: str = "replica-1") -> None:
        publish_load(self.client, self.keys, replica, Load(running, 0, time.time_ns() // 1_000_000))

    def learner(self, config: LearnerConfig = CONFIG, place: LearnerPlace | None = None) -> LearnerLoop:
        loop = LearnerLoop(place or self.place, config, self.traffic.loaded)
        self.loops.append(loop)
        return loop

    def control(self) -> ControlLoop:
        place = ControlPlace(self.traffic.loaded.fingerprint, self.place.store, self.redis.url)
        return ControlLoop(place, ControlConfig(canary_share=0, watch_share=0))

    def run(self, loop: LearnerLoop, until: Callable[[], object], seconds: float = 60) -> None:
        """Tick while the one replica says that it is idle, until the condition holds."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, str(loop.status())
            self.say_load(0)
            time.sleep(min(loop.tick(), 0.002))

    def close(self) -> None:
        for loop in self.loops:
            loop.close()
        self.writer.close()
        self.client.close()


@pytest.fixture
def service(tmp_path: Path, redis_server: PrivateRedis, traffic: Any) -> Iterator[Service]:
    made = Service(tmp_path, redis_server, traffic)
    yield made
    made.close()


@pytest.fixture
def learner_config() -> LearnerConfig:
    return CONFIG
