"""The training of one drafter: micro-batches, a look at τ now and then, the best weights kept, resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from online_draft.errors import ArtifactError
from online_draft.models.drafter import Drafter
from online_draft.training.batches import Batches
from online_draft.training.features import TokenRecord
from online_draft.training.replay import mean_accepted_length, replayed_tau
from online_draft.training.trainer import Trainer
from online_draft.training.trainer_state import read_weights, write_weights

_SAVE_EVERY_S = 60.0
_TIMED_SLICES = 20
"""After so many slices a budget in minutes is turned into steps."""

STATE_FILE = "state.safetensors"
BEST_FILE = "best.safetensors"


@dataclass(frozen=True, slots=True)
class CoursePlan:
    """`steps` updates, a look every `eval_every` (0: at the end only) and at most `patience` looks without a
    better τ (0: any number); as in `DistillConfig`."""

    steps: int
    eval_every: int
    patience: int
    nodes: int
    minutes: float | None = None


@dataclass(slots=True)
class CourseState:
    """Where a course is, beside the trainer's own state. `looks` are (step, τ); `ended` says why, or ""."""

    loss: float = math.nan
    best_tau: float = math.nan
    best_step: int = 0
    looks: list[tuple[int, float]] = field(default_factory=list)
    ended: str = ""

    @property
    def since_best(self) -> int:
        """Looks since the best one."""
        return sum(step > self.best_step for step, _ in self.looks)


class Course:
    """Trains until it ends or is stopped; its directory holds all that it takes to go on."""

    def __init__(
        self,
        plan: CoursePlan,
        trainer: Trainer,
        batches: Batches,
        read: Callable[[int], TokenRecord],
        validation: Sequence[TokenRecord],
        directory: Path,
        pack: bool,
    ) -> None:
        """`read` gives a record of `batches` by its number. Goes on where the directory's state left off; a
        state that can't be read is as none."""
        self.plan = plan
        self.trainer = trainer
        self.state = CourseState()
        self.seconds = 0.0
        self._batches = batches
        self._read = read
        self._validation = validation
        self._directory = directory
        self._pack = pack
        self._steps = plan.steps
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / STATE_FILE
        if path.is_file():
            try:
                self.state = _course_state(trainer.load(path))
            except (ArtifactError, TypeError):
                path.unlink()

    @property
    def slices(self) -> int:
        """Micro-batches in all, as far as is known."""
        return self._steps * self.trainer.config.accumulate

    def run(self, progress: Callable[[CourseState, int, int], None], stop: Callable[[], object]) -> bool:
        """Train; False when `stop` ended it early. `progress(state, done, total)` after every micro-batch."""
        trainer, started = self.trainer, time.monotonic()
        first, saved = trainer.slices, started
        every = self.plan.eval_every * trainer.config.accumulate
        whole = True
        """Whether the weights are those between two micro-batches."""
        try:
            while not self.state.ended:
                if trainer.slices >= self.slices:
                    self._end("steps")
                    break
                if stop():
                    return False
                if self.plan.minutes is not None and trainer.slices - first == _TIMED_SLICES:
                    self._fit(first, started)
                whole = False
                self._slice()
                if every and trainer.slices % every == 0:
                    self._look()
                whole = True
                progress(self.state, trainer.slices, self.slices)
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    self._save()
                    saved = time.monotonic()
            return True
        finally:
            self.seconds += time.monotonic() - started
            if whole:
                self._save()

    def best(self) -> Drafter:
        """The weights with the best τ so far; looks now if nothing was looked at yet."""
        if not self.state.looks:
            self._look()
            self._save()
        best = self.trainer.candidate()
        read_weights(self._directory / BEST_FILE, best)
        return best

    def _slice(self) -> None:
        rows = [[self._read(number) for number in row] for row in self._batches.at(self.trainer.slices)]
        if self._pack:
            metrics = self.trainer.slice_packed(rows)
        else:
            metrics = self.trainer.slice([record for row in rows for record in row])
        if math.isfinite(metrics.loss):
            before = self.state.loss
            self.state.loss = metrics.loss if math.isnan(before) else 0.95 * before + 0.05 * metrics.loss

    def _look(self) -> None:
        """Replay the validation records; keep the weights if they are the best so far."""
        candidate = self.trainer.candidate()
        results = replayed_tau(candidate, self.trainer.target, self._validation, self.plan.nodes)
        tau, state = mean_accepted_length(results), self.state
        state.looks.append((self.trainer.steps, tau))
        if not tau <= state.best_tau:
            state.best_tau, state.best_step = tau, self.trainer.steps
            write_weights(self._directory / BEST_FILE, candidate.state_dict())
        if self.plan.patience and state.since_best >= self.plan.patience:
            state.ended = "patience"

    def _end(self, why: str) -> None:
        if not self.state.looks or self.state.looks[-1][0] != self.trainer.steps:
            self._look()
        self.state.ended = why

    def _fit(self, first: int, started: float) -> None:
        """Turn what is left of the minutes into steps, at the pace so far."""
        assert self.plan.minutes is not None
        pace = (time.monotonic() - started) / _TIMED_SLICES
        slices = first + max(_TIMED_SLICES + 1, int(60 * self.plan.minutes / pace))
        self._steps = min(self._steps, -(-slices // self.trainer.config.accumulate))
        self.trainer.decay_by(self._steps)

    def _save(self) -> None:
        self.trainer.save(self._directory / STATE_FILE, asdict(self.state))


def _course_state(extra: dict[str, Any]) -> CourseState:
    looks = [(int(step), float(tau)) for step, tau in extra.pop("looks", [])]
    return CourseState(looks=looks, **extra)
