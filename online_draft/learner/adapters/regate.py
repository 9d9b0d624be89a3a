"""Adapters after another base was promoted: gated on it, kept or dropped, and made anew."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from online_draft.buffer.reservoirs import Reservoirs
from online_draft.errors import ArtifactError, JournalError, StoreError
from online_draft.learner.adapters.pupil import AdapterPupil
from online_draft.learner.adapters.trial import Entrant, Trials
from online_draft.learner.adapters.view import RegateView
from online_draft.learner.config import LearnerConfig
from online_draft.learner.idle.pacer import Pacer
from online_draft.learner.judge.gate import Verdict
from online_draft.learner.student import Student
from online_draft.models.artifact import base_digest
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.registry.ladder import LadderState
from online_draft.registry.manifest import Provenance
from online_draft.registry.revision import git_revision
from online_draft.training.adapters.train import evaluation

logger = logging.getLogger(__name__)

RETRY_S = 1.0


class Regate:
    """One adapter at a time, piece by piece: replayed with and without it on held-out records of its segment,
    which decide as they do about versions.

    An adapter that passes is published for the new base and loaded, another one dropped; in mode "rebuild"
    one is then trained in its place. All of it is decided in the journal, so that a learner which starts
    again goes on with what still waits. Not thread-safe.
    """

    def __init__(self, target: Target, config: LearnerConfig, nodes: int, view: RegateView) -> None:
        self.waits_for = ""
        """Why nothing is done though an adapter waits."""
        self._target = target
        self._config = config
        self._nodes = nodes
        self._view = view
        self._trials = Trials(target, config, nodes)
        device = target.device.type
        self._slices = Pacer(config.pace.limit_ms(device), config.pace.max_batch, cpu=device != "cuda")
        self._counts = {"kept": 0, "dropped": 0, "rebuilt": 0, "given_up": 0}
        self._retry_at = float("-inf")
        self._seq = self._decided_after = -1
        """The state of the last `begin`; and the one on which was decided last, which is outdated."""
        self._version: str | None = None
        self._base: Drafter | None = None
        self._pupil: AdapterPupil | None = None
        self._asked = False
        self._lost: list[str] = []
        """Segments whose adapter was dropped, to be made anew."""

    @property
    def busy(self) -> bool:
        """Whether an adapter is tried or learns."""
        return self._trials.entrant is not None or self.learning

    @property
    def learning(self) -> bool:
        """Whether an adapter learns now."""
        return self._pupil is not None

    @property
    def doing(self) -> str:
        """What is done now, in words."""
        if self._pupil is not None:
            return f"an adapter for {self._pupil.card.segment} learns"
        entrant = self._trials.entrant
        return "" if entrant is None else f"an adapter for {entrant.card.segment} is tried"

    def status(self) -> dict[str, Any]:
        """Plain data."""
        return {"doing": self.doing, "waits_for": self.waits_for, **self._counts}

    def begin(self, state: LadderState, student: Student, reservoirs: Reservoirs) -> None:
        """Begin with an adapter if one waits and can be judged. Cheap when none does."""
        if self._version != student.version:
            self._start_over(student.version)
        if not self.busy:
            self._base = student.champion
        due = state.seq > self._decided_after and time.monotonic() >= self._retry_at
        if self._config.adapters.mode == "off" or self.busy or not due or state.champion != self._version:
            return
        self._seq, self._reservoirs = state.seq, reservoirs
        with self._retried():
            self._begin(state)

    def advance(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Do one piece, of a slice's time; less when `interrupted()` says so on the way."""
        with self._retried():
            if self._pupil is not None:
                self._learn(self._pupil, interrupted)
            elif self._trials.entrant is not None:
                verdict = self._trials.advance(interrupted)
                if verdict is not None:
                    self._conclude(self._trials.entrant, verdict)
                    self._trials.end()

    def drop(self) -> None:
        """Give up what is in progress, and hold neither records nor tensors any more; it begins again."""
        entrant = self._trials.entrant
        if self._pupil is not None:
            self._lost.append(self._pupil.card.segment)
        elif entrant is not None and entrant.former is None:
            self._lost.append(entrant.card.segment)
        self._trials.end()
        self._trials.forget_records()
        self._pupil = self._base = None

    def _start_over(self, version: str | None) -> None:
        """Another champion: nothing that was known is true any more."""
        self._version = version
        self._trials.start_over()
        self._pupil = None
        self._asked, self._lost = False, []

    def _begin(self, state: LadderState) -> None:
        config = self._config
        lost: list[str] = []
        if config.adapters.mode == "rebuild":
            if not self._asked:
                self._lost, self._asked = self._view.dropped(), True
            lost = [segment for segment in self._lost if segment not in state.adapters]
        self.waits_for = ""
        if not (state.waiting_adapters or lost):
            return
        if state.canary is not None:
            # An adapter that comes or goes would spoil the comparison.
            self.waits_for = f"{state.canary} is compared with {state.champion}"
            return
        sizes = self._reservoirs.sizes()
        for segment in (*state.waiting_adapters, *lost):
            found = sizes.get(segment, {"held_out": 0, "long_term": 0})
            if found["held_out"] < config.gate.min_records:
                self.waits_for = f"{found['held_out']} of {config.gate.min_records} held-out records"
            elif segment in state.waiting_adapters:
                self._try(state.waiting_adapters[segment], segment)
                return
            elif found["long_term"] < config.adapters.min_training:
                self.waits_for = (
                    f"{found['long_term']} of {config.adapters.min_training} records to learn from"
                )
            else:
                self._teach(segment)
                return

    def _try(self, name: str, segment: str) -> None:
        assert self._version is not None and self._base is not None
        try:
            adapter, weights, origin = self._view.fetch(name)
            card = adapter.card.rebased(base_digest(self._base), self._version, {})
            origin = replace(origin, parent=name, git_revision=git_revision(), created_at_ms=0)
            entrant = Entrant(name, replace(card, segment=segment), weights, origin)
            self._trials.begin(entrant, self._base, adapter, self._reservoirs)
        except ArtifactError as error:
            self._drop_adapter(name, segment, str(error), {})

    def _teach(self, segment: str) -> None:
        assert self._version is not None and self._base is not None
        self._lost.remove(segment)
        try:
            self._pupil = AdapterPupil(
                self._base, self._version, segment, self._target, self._view.fingerprint, self._config
            )
        except ArtifactError as error:
            self._give_up(segment, str(error))

    def _learn(self, pupil: AdapterPupil, interrupted: Callable[[], bool]) -> None:
        segment, before = pupil.card.segment, pupil.steps
        rng = random.Random(f"{self._config.seed}:{segment}:{before}")
        with self._slices as count:
            metrics = pupil.slice(self._reservoirs.sample(count, rng, segment), interrupted)
            if metrics.interrupted:
                self._slices.void()
        if metrics.interrupted:
            return
        if pupil.steps == before:
            self._pupil = None
            self._give_up(segment, "its records are too short to learn from")
        elif pupil.done:
            assert self._base is not None
            found = self._reservoirs.sizes().get(segment, {}).get("long_term", 0)
            counts, tenants = {"slices": pupil.steps}, pupil.lineage.marks()
            origin = Provenance(None, found, counts, git_revision(), tenants=tenants)
            entrant = Entrant(None, pupil.card, pupil, origin)
            self._trials.begin(entrant, self._base, pupil.adapter(), self._reservoirs)
            self._pupil = None

    def _conclude(self, entrant: Entrant, verdict: Verdict) -> None:
        segment, reason = entrant.card.segment, verdict.numbers.reason
        if verdict.numbers.passed:
            card = replace(entrant.card, evaluation=evaluation(verdict.numbers, self._nodes))
            name = self._view.keep(
                entrant.weights, card, entrant.former, entrant.provenance, reason, verdict.as_numbers()
            )
            self._decided_after = self._seq
            if name is not None:
                self._counts["rebuilt" if entrant.former is None else "kept"] += 1
                logger.info("%s drafts for %s: %s", name, segment, reason)
        elif entrant.former is None:
            self._give_up(segment, reason)
        else:
            self._drop_adapter(entrant.former, segment, reason, verdict.as_numbers())

    def _drop_adapter(self, name: str, segment: str, reason: str, numbers: dict[str, Any]) -> None:
        assert self._version is not None
        dropped = self._view.drop(name, segment, self._version, reason, numbers)
        self._decided_after = self._seq
        if dropped:
            self._counts["dropped"] += 1
            self._lost.append(segment)
            logger.info("%s drafts for %s no more: %s", name, segment, reason)

    def _give_up(self, segment: str, reason: str) -> None:
        self._counts["given_up"] += 1
        logger.info("%s gets no adapter on %s: %s", segment, self._version, reason)

    @contextlib.contextmanager
    def _retried(self) -> Iterator[None]:
        """A store that can't be used, or no memory, ends what is in progress, and it begins again later."""
        try:
            yield
        except (StoreError, JournalError, torch.OutOfMemoryError) as error:
            self.drop()
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
                self._trials.shrink()
                self._slices.shrink()
            self._retry_at = time.monotonic() + RETRY_S
            self.waits_for = str(error)
