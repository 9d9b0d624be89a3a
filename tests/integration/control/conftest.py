"""A service as control sees it: artifact store, journal, and replicas that publish counts in a real Redis."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from online_draft.control.config import ControlConfig, ControlPlace
from online_draft.control.loop import ControlLoop
from online_draft.core import SpeculationCounts
from online_draft.monitor.arms import ArmsBoard
from online_draft.monitor.drift.samples import DriftSample, Hits, publish_drift_samples
from online_draft.monitor.load import Load, publish_load
from online_draft.redis_server import PrivateRedis
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal, DecisionKind
from online_draft.registry.ladder import LadderState, decide, fold
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore, RedisKeys, connect_redis
from online_draft.store.packing import pack

TARGET = "llama-0123456789abcdef-01234567"
CONFIG = ControlConfig(canary_max_s=60, watch_s=600, watch_min_s=30, stale_after_s=30)


@dataclass
class House:
    """`baseline` serves. Time stands still unless `later` says so."""

    directory: Path
    redis: PrivateRedis
    config: ControlConfig = CONFIG
    keys: RedisKeys = field(default_factory=RedisKeys)
    boards: list[ArmsBoard] = field(default_factory=list)

    def __post_init__(self) -> None:
        store = ArtifactStore(self.directory / "store")
        self.registry = DrafterRegistry(store, TARGET)
        self.journal = DecisionJournal(store, TARGET)
        self.client = connect_redis(self.redis.url)
        self.boards = [ArmsBoard(self.keys, f"r{number}") for number in range(2)]
        self.now_ms = time.time_ns() // 1_000_000
        self.publish(b"base", name="baseline")
        self.decide("promote", "baseline", "bootstrap")

    @property
    def place(self) -> ControlPlace:
        return ControlPlace(TARGET, str(self.directory / "store"), self.redis.url)

    def control(self) -> ControlLoop:
        return ControlLoop(self.place, self.config, now_ms=lambda: self.now_ms)

    @property
    def state(self) -> LadderState:
        return fold(self.journal.read())

    @property
    def kinds(self) -> list[str]:
        """The journal without the bootstrap, one word a decision."""
        return [decision.kind for decision in self.journal.read()[1:]]

    @property
    def last(self) -> Decision:
        return self.journal.read()[-1]

    def later(self, seconds: float) -> None:
        """Control's clock goes on. Decisions carry real time, which hardly moves in a test."""
        self.now_ms += int(seconds * 1000)

    def publish(self, weights: bytes, name: str | None = None) -> str:
        digest = hashlib.sha256(weights).hexdigest()
        directory = self.directory / "made" / digest
        directory.mkdir(parents=True)
        (directory / "model.safetensors").write_bytes(weights)
        manifest = {"schema": 1, "kind": "amphista", "target": TARGET, "sha256": digest}
        (directory / "manifest.json").write_text(json.dumps(manifest))
        return self.registry.publish(directory, Provenance("baseline"), name=name)

    def decide(
        self, kind: DecisionKind, version: str | None, actor: str = "admin", **numbers: Any
    ) -> Decision:
        return decide(self.journal, self.state.seq, kind, version, actor, "because", numbers)

    def propose(self, weights: bytes = b"better") -> str:
        """As the learner does it, after the gate."""
        version = self.publish(weights)
        self.decide("propose", version, "learner", gain=0.2, parent=self.state.champion)
        return version

    def serve(self, champion: float, second: float, requests: int = 200, segment: str = "chat") -> None:
        """Both arms serve on all replicas, a tenth of it by the second version, at these τ."""
        state = self.state
        assert state.arms is not None
        for board in self.boards:
            board.begin(state.arms.name)
            for number in range(requests):
                tau, version = champion, state.champion
                if number % 10 == 0:
                    tau, version = second, state.arms.second
                steps = 20 + number % 7
                committed = round(steps * tau * (0.8 if number // 10 % 2 else 1.2))
                counts = SpeculationCounts(steps=steps, committed=committed)
                board.add(segment, version, counts, time.monotonic())
        self.publish_counts()

    def publish_counts(self) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for board in self.boards:
            board.publish(pipeline, True)
        pipeline.execute()

    def say(self, replica: str, version: str | None, second: str | None = None, **more: Any) -> None:
        """A replica's load and status, as of control's clock."""
        publish_load(self.client, self.keys, replica, Load(0, 0, self.now_ms))
        status = {"drafter_version": version, "second_version": second, "unusable": {}, **more}
        self.client.set(self.keys.status(replica), pack(status))

    def replay(self, champion: int, baseline: int, entropy: float, records: int = 80) -> None:
        """The learner says what it replayed: hits of ten looks by both drafters, and the target's entropy."""
        samples = [
            DriftSample(
                f"{champion}-{number}",
                self.state.champion or "",
                Hits((champion + number % 2,), (10,)),
                Hits((baseline + number % 2,), (10,)),
                int(10e6 * (entropy + number % 2 / 10)),
                10,
            )
            for number in range(records)
        ]
        publish_drift_samples(self.client, self.keys, TARGET, "poems", samples)

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def new_house(tmp_path: Path, redis_server: PrivateRedis) -> Iterator[Callable[..., House]]:
    """`new_house()`, with other settings if need be. Houses share the Redis."""
    made: list[House] = []

    def build(**changes: Any) -> House:
        made.append(House(tmp_path / str(len(made)), redis_server, **changes))
        return made[-1]

    yield build
    for house in made:
        house.close()


@pytest.fixture
def house(new_house: Callable[..., House]) -> House:
    return new_house()
