"""Takes the student through the gate: when, on which records, piece by piece."""

from __future__ import annotations

import random
from dataclasses import dataclass

from online_draft.core import Interaction
from online_draft.learner.config import LearnerConfig
from online_draft.learner.feed import RecordFeed
from online_draft.learner.gate import Evaluation, Gate, Verdict
from online_draft.learner.pacer import Pacer
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
        self._pieces = Pacer(config.pace.slice_ms, config.gate.max_records, cpu=target.device.type != "cuda")
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
        self._slices, self._looked_at = 0, -1

    def drop(self) -> None:
        """Give up the look in progress, uncounted."""
        self._evaluation = None

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
        recent = feed.reservoirs.sample(_RECENT, random.Random(self._slices))
        known = self._champion_results
        self._champion_results = {record: known[record] for record in records if record in known}
        self._evaluation = Evaluation(
            student.candidate(recent),
            student.champion,
            self._target,
            records,
            self._nodes,
            self._champion_results,
        )

    def advance(self) -> Examined | None:
        """Replay a few records more, within a slice's time; the verdict when that was the last piece."""
        evaluation = self._evaluation
        assert evaluation is not None
        with self._pieces as count:
            evaluation.advance(count)
        if not evaluation.done:
            return None
        self._evaluation = None
        self._slices = 0
        verdict = self.gate.judge(
            evaluation.records, evaluation.candidate_results, evaluation.champion_results
        )
        return Examined(evaluation.candidate, verdict)
