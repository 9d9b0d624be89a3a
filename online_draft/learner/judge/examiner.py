"""Takes the student through the gate: when, on which records, piece by piece."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from online_draft.buffer.reservoirs import Reservoirs
from online_draft.core import Interaction
from online_draft.learner.config import LearnerConfig
from online_draft.learner.feed import RecordFeed
from online_draft.learner.idle.pacer import Pacer
from online_draft.learner.judge.gate import Evaluation, Gate, Verdict
from online_draft.learner.judge.guard import Guard, GuardNumbers
from online_draft.learner.student import Student
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.registry.ladder import LadderState
from online_draft.training.replay import ReplayResult

_RECENT = 1024
"""Records that say which tokens are emitted these days."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A finished look: the candidate as it was replayed, and the verdict on it."""

    candidate: Drafter
    verdict: Verdict


class Examiner:
    """Owns the gate and the look in progress. Not thread-safe."""

    def __init__(self, target: Target, config: LearnerConfig, nodes: int) -> None:
        self.gate = Gate(config.gate, config.seed)
        self.waits_for = ""
        """Why no look is taken though one would be due."""
        self._target = target
        self._nodes = nodes
        device = target.device.type
        self._pieces = Pacer(config.pace.limit_ms(device), config.gate.max_records, cpu=device != "cuda")
        self._guard = Guard(config.gate, config.seed)
        self._reservoirs: Reservoirs | None = None
        self._guarded: list[Interaction] = []
        """What the guard judged by last."""
        self._verdict: Verdict | None = None
        """Of a look that has passed and waits for the guard."""
        self._evaluation: Evaluation | None = None
        self._champion_results: dict[Interaction, ReplayResult] = {}
        self._slices = 0
        self._looked_at = -1

    @property
    def busy(self) -> bool:
        """Whether a look is in progress."""
        return self._evaluation is not None

    def forget_champion(self) -> None:
        """Another champion serves: what was replayed with the last one is worthless."""
        self.drop()
        self._champion_results.clear()
        self._guarded = []
        self._slices, self._looked_at = 0, -1

    def drop(self) -> None:
        """Give up the look in progress; uncounted, unless it has passed already."""
        self._evaluation, self._verdict = None, None

    def note_slice(self) -> None:
        """The student has learnt for another slice."""
        self._slices += 1

    def begin(self, student: Student, feed: RecordFeed, state: LadderState) -> None:
        """Begin a look if one is due and could lead to a proposal. Cheap when it can't."""
        if self.busy or self._slices < self.gate.config.every_slices:
            return
        if state.candidate or state.canary or state.pinned:
            self.waits_for = "a version is pinned" if state.pinned else "a proposal is being decided"
            return
        if self._looked_at == feed.seen["held_out"]:
            return
        self._looked_at = feed.seen["held_out"]
        records, self.waits_for = self.gate.records(feed.reservoirs)
        if not records:
            return
        self._reservoirs = feed.reservoirs
        recent = feed.reservoirs.sample(_RECENT, random.Random(self._slices))
        known = self._champion_results
        self._champion_results = {
            record: known[record] for record in (*records, *self._guarded) if record in known
        }
        self._evaluation = Evaluation(
            student.candidate(recent),
            student.champion,
            self._target,
            records,
            self._nodes,
            self._champion_results,
        )

    def advance(self, interrupted: Callable[[], bool] = lambda: False) -> Examined | None:
        """Replay a few records more, within a slice's time, unless `interrupted()` says so on the way; the
        verdict when that was the last piece. What has passed is replayed for the guard, too."""
        evaluation = self._evaluation
        assert evaluation is not None
        with self._pieces as count:
            if not evaluation.advance(count, interrupted):
                self._pieces.void()
        if not evaluation.done:
            return None
        if self._verdict is None:
            self._slices = 0
            verdict = self.gate.judge(
                evaluation.records, evaluation.candidate_results, evaluation.champion_results
            )
            if verdict.passed:
                assert self._reservoirs is not None
                self._verdict = verdict
                self._guarded = self._guard.records(self._reservoirs)
                if evaluation.extend(self._guarded):
                    return None
        else:
            verdict = self._verdict
        if verdict.passed:
            verdict = replace(verdict, guard=self._judged_by_guard(evaluation))
        self.drop()
        return Examined(evaluation.candidate, verdict)

    def _judged_by_guard(self, evaluation: Evaluation) -> GuardNumbers:
        place = {record: index for index, record in enumerate(evaluation.records)}
        places = [place[record] for record in self._guarded]
        candidate, champion = evaluation.candidate_results, evaluation.champion_results
        return self._guard.judge(self._guarded, [candidate[i] for i in places], [champion[i] for i in places])
