"""The learner's own parts, without its actor: fed by hand, given a number of slices."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import cast

from online_draft.buffer.reservoirs import PLACES, Place, Reservoirs
from online_draft.core import Interaction
from online_draft.errors import ConfigError
from online_draft.learner.config import LearnerConfig
from online_draft.learner.feed import RecordFeed
from online_draft.learner.judge.examiner import Examined, Examiner
from online_draft.learner.judge.ladder_view import LadderView
from online_draft.learner.rate import LearningRate
from online_draft.learner.student import Student
from online_draft.models.loading import LoadedTarget
from online_draft.registry.manifest import Provenance

_TOTALS = ("slices", "draws", "tokens", "looks")


class HandFeed:
    """What an `Examiner` asks of a `RecordFeed`: the reservoirs, filled directly, and counts by place."""

    def __init__(self, reservoirs: Reservoirs) -> None:
        self.reservoirs = reservoirs
        self.seen: dict[str, int] = dict.fromkeys(PLACES, 0)

    def add(self, record: Interaction) -> Place:
        """Take in one record; where it went."""
        place = self.reservoirs.add(record)
        self.seen[place] += 1
        return place


class Pupil:
    """As `LearnerLoop`, in one thread and with a budget instead of idleness; no checkpoints, no drift alarms
    (the learning rate still rises when losses do), no adapters."""

    def __init__(
        self,
        loaded: LoadedTarget,
        config: LearnerConfig,
        view: LadderView,
        nodes: int,
        slice_records: int,
        opening: Sequence[int] = (),
    ) -> None:
        self.feed = HandFeed(Reservoirs(config.reservoirs, opening))
        self.student = Student(loaded.target, config)
        self.total = dict.fromkeys(_TOTALS, 0)
        self.seconds = 0.0
        """Wall time of the slices."""
        self._config = config
        self._view = view
        self._examiner = Examiner(loaded.target, config, nodes)
        self._rate = LearningRate(config.rate)
        self._slice_records = slice_records

    def follow(self) -> None:
        """Do what was decided: another champion, or no for the student's proposal."""
        state, student = self._view.refresh(), self.student
        if state.champion is None:
            raise ConfigError("champion", "the journal has none to learn from")
        if state.champion != student.version:
            own = student.follow(state.champion, self._view.fetch(state.champion))
            self._examiner.gate.reset(self._view.champion_since_ms)
            self._examiner.forget_champion()
            if not own:
                self._rate.restart()
        elif student.proposed not in (None, state.candidate, state.canary):
            student.restart()
            self._rate.forget_losses()

    def work(self, slices: int) -> None:
        """Do so many pieces of work: an update each, or a part of a look. Nothing without records."""
        began = time.perf_counter()
        for _ in range(slices if self.feed.seen["training"] else 0):
            self._examiner.begin(self.student, cast(RecordFeed, self.feed), self._view.state)
            if self._examiner.busy:
                examined = self._examiner.advance()
                if examined is not None:
                    self._conclude(examined)
            else:
                self._train()
        self.seconds += time.perf_counter() - began

    def _train(self) -> None:
        self.student.rate = self._rate.factor
        rng = random.Random(f"{self._config.seed}:{self.total['slices']}")
        records = self.feed.reservoirs.sample(self._slice_records, rng)
        metrics = self.student.slice(records)
        self.total["slices"] += 1
        self.total["draws"] += len(records)
        self.total["tokens"] += metrics.tokens
        self._examiner.note_slice()
        self._rate.note(metrics.loss)

    def _conclude(self, examined: Examined) -> None:
        """Propose what passed; enter a refusal now and then; start anew where the student lost its way."""
        verdict, parent = examined.verdict, self.student.version
        assert parent is not None
        self.total["looks"] += 1
        numbers = verdict.as_numbers()
        if verdict.passed:
            provenance = Provenance(parent, self.feed.seen["training"], dict(self.total))
            self.student.proposed = self._view.propose(
                examined.candidate, parent, provenance, verdict.reason, numbers
            )
            self._view.refresh()
            return
        if self._examiner.gate.refusal_due(time.time_ns() // 1_000_000):
            self._view.refuse(examined.candidate, parent, verdict.reason, numbers)
        if verdict.worse:
            self.student.restart()
            self._rate.forget_losses()
