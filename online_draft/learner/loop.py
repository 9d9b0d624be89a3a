"""The learner: reads what was served, trains while nobody waits, proposes what it can prove."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from online_draft.errors import ArtifactError, JournalError, StoreError
from online_draft.learner.config import LearnerConfig, LearnerPlace
from online_draft.learner.features.replicas import FeaturesAway
from online_draft.learner.idle.lookout import Interrupted
from online_draft.learner.judge.conclusion import Conclusion
from online_draft.learner.parts import parts_of
from online_draft.learner.report import State
from online_draft.models.loading import LoadedTarget

logger = logging.getLogger(__name__)

FOLLOW_EVERY_S = 0.5
WAIT_S = 0.1
RETRY_S = 1.0
AWAY_S = 0.25
"""Pause before features are asked for again."""


class LearnerLoop:
    """One learner of one target. `run` or `tick` by one thread; `status` by any.

    A tick does one small piece of work at most: one slice, one part of a look, one decision. Before each it
    asks whether the hardware is idle. Its state is on the artifact store: a new loop goes on from the last
    checkpoint, and records come again unless that checkpoint held them.
    """

    def __init__(
        self,
        place: LearnerPlace,
        config: LearnerConfig,
        loaded: LoadedTarget,
        outdated: Callable[[], bool] = lambda: False,
    ) -> None:
        """Restore what the last learner of this target left. Needs the artifact store (StoreError), but not
        yet Redis. `outdated` says that the target was updated: then `run` ends."""
        self._outdated = outdated
        self._over = False
        self._config = config
        parts = parts_of(place, config, loaded)
        self._client, self._notebook, self._feed = parts.client, parts.notebook, parts.feed
        self._view, self._forgetting, self._residence = parts.view, parts.forgetting, parts.residence
        self._student, self._examiner, self._drill = parts.student, parts.examiner, parts.drill
        self._regate, self._meter, self._rate = parts.regate, parts.meter, parts.rate
        self._pacer, self._lookout = parts.pacer, parts.lookout
        self._alarms, self._report = parts.alarms, parts.report
        self._rollups = parts.rollups
        self._replicas = parts.replicas
        self._conclusion = Conclusion(
            self._student,
            self._feed,
            self._notebook,
            self._examiner,
            self._view,
            self._report,
            self._drill.restart,
            lambda: self._report.publish(self.status),
        )
        self._trouble = ""
        self._follow_at = self._read_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set or the target was updated, then `close`. What goes wrong in a tick is
        logged and tried again."""
        self._rollups.start()
        while not (stop.is_set() or self._over):
            try:
                pause = self.tick()
            except Exception as error:
                logger.exception("the learner failed in a tick and tries again")
                self._examiner.drop()
                self._regate.drop()
                self._meter.drop()
                pause = self._rest("waiting", f"failed: {error}", RETRY_S)
            if pause:
                stop.wait(pause)
        self.close()

    def tick(self) -> float:
        """Do the next piece of work; the seconds to wait before the next tick."""
        now = time.monotonic()
        if now >= self._follow_at:
            self._follow_at = now + FOLLOW_EVERY_S
            self._over = self._outdated()
            if self._over:
                return self._rest("waiting", "the target was updated", 0.0)
            self._follow()
        if now >= self._read_at:
            self._read()
        self._listen()
        self._notebook.collect(self._feed)
        self._forget()
        if self._view.state.learner_paused:
            self._leave()
            return self._rest("paused", "by decision", WAIT_S)
        if self._student.version is None:
            return self._rest("waiting", self._trouble or "there is no champion yet", WAIT_S)
        self._examiner.begin(self._student, self._feed, self._view.state)
        self._regate.begin(self._view.state, self._student, self._feed.reservoirs)
        budget = self._config.pace.passes * self._feed.training_records()
        measure = self._meter.begin(self._feed.take_held_out())
        if self._notebook.drawn >= budget and not (self._examiner.busy or self._regate.busy or measure):
            self._save(patience=1)
            return self._rest("waiting", "nothing new to learn" if budget else "no records yet", WAIT_S)
        interrupted = self._lookout.begin(hurry=bool(self._alarms.segments))
        if interrupted is None:
            if self._report.state in ("training", "evaluating"):
                self._notebook.total["yields"] += 1
            self._save(patience=3)
            return self._rest("yielding", self._lookout.reason, self._config.pace.poll_ms / 1000)
        if self._lookout.idle:
            self._save(patience=1)
        try:
            self._work(measure, interrupted)
        except FeaturesAway as error:
            return self._rest("waiting", str(error), AWAY_S)
        finally:
            self._lookout.done()
        self._report.publish(self.status)
        return 0.0

    def status(self) -> dict[str, Any]:
        """Plain data: state and why, counts, the last look's numbers."""
        return {
            **self._report.status(),
            "checkpoint": self._notebook.number,
            "champion": self._student.version,
            "proposed_version": self._student.proposed,
            "journal_seq": self._view.state.seq,
            "steps": self._student.steps,
            **self._notebook.total,
            "features": {"from": "local"} if self._replicas is None else self._replicas.status(),
            "batch": self._pacer.batch,
            "slice_ms": round(self._pacer.last_ms, 1),
            **self._student.counts(),
            "rate": self._student.rate,
            "alarms": self._rate.alarms,
            "drift_samples": self._meter.measured,
            "drifting": list(self._alarms.segments),
            "looks": self._examiner.gate.books.looks,
            "gate_waits_for": self._examiner.waits_for,
            "adapters": self._regate.status(),
            "unsettled": self._feed.unsettled,
            "erased": self._forgetting.settled,
            "feed": self._feed.status(),
        }

    def close(self) -> None:
        """Write a checkpoint if there is something new and give connections back. Idempotent."""
        self._notebook.collect(self._feed, wait=True)
        if self._notebook.unsaved or self._feed.unsettled:
            self._save()
            self._notebook.collect(self._feed, wait=True)
        self._notebook.close()
        self._rollups.close()
        self._lookout.close()
        self._feed.close()
        self._client.close()

    def _work(self, measure: bool, interrupted: Interrupted) -> None:
        """One slice, or one part of a look, or some records measured for drift."""
        if self._replicas is not None:
            self._replicas.interrupted = interrupted
        if self._examiner.busy:
            self._report.enter("evaluating", "")
            examined = self._examiner.advance(interrupted)
            if examined is not None and self._conclusion.draw(examined):
                self._save()
        elif self._regate.busy:
            self._report.enter("training" if self._regate.learning else "evaluating", self._regate.doing)
            self._regate.advance(interrupted)
        elif measure:
            self._report.enter("evaluating", "drift")
            assert self._student.version is not None
            self._meter.advance(
                self._student.version, self._student.champion, self._view.state.baseline, interrupted
            )
        else:
            self._report.enter("training", self._examiner.waits_for)
            self._drill.slice(interrupted)

    def _rest(self, state: State, reason: str, seconds: float) -> float:
        self._report.enter(state, reason)
        self._report.publish(self.status)
        return seconds

    def _read(self) -> None:
        self._read_at = time.monotonic() + self._config.pace.read_every_ms / 1000
        try:
            if self._feed.take():
                self._notebook.drawn = 0
        except (StoreError, redis.RedisError, OSError) as error:
            self._read_at = time.monotonic() + RETRY_S
            logger.debug("records can't be read: %s", error)

    def _follow(self) -> None:
        """Do what was decided: another champion, or no for the student's proposal."""
        try:
            state = self._view.refresh()
            if state.learner_paused:
                return
            self._residence.come_back()
            if state.champion is not None and state.champion != self._student.version:
                self._follow_champion(state.champion)
            elif self._student.proposed not in (None, state.candidate, state.canary):
                logger.info("%s was refused, the student starts anew", self._student.proposed)
                self._drill.restart()
            self._trouble = ""
        except (StoreError, JournalError, ArtifactError) as error:
            if not self._trouble:
                logger.warning("the champion can't be followed: %s", error)
            self._trouble = str(error)
            self._follow_at = time.monotonic() + RETRY_S

    def _follow_champion(self, version: str) -> None:
        champion = self._view.fetch(version)
        since_ms = self._view.champion_since_ms
        self._notebook.go_on(
            version, champion, since_ms, self._student, self._feed, self._examiner, self._rate
        )
        if self._student.version != version:
            own = self._student.follow(version, champion)
            self._examiner.gate.reset(since_ms)
            logger.info("%s is champion, the student %s", version, "goes on" if own else "starts from it")
            if not own:
                self._notebook.drawn = 0
                self._notebook.lineage.start(self._view.tenants(version))
                self._rate.restart()
        self._examiner.forget_champion()
        self._notebook.note()

    def _leave(self) -> None:
        """Write what was learnt; then hold nothing on a GPU."""
        if self._notebook.unsaved:
            self._save()
        elif self._residence.on_gpu and not self._notebook.busy:
            self._examiner.forget_champion()
            self._regate.drop()
            self._meter.drop()
            self._student.leave()
            self._notebook.reopen()
            self._residence.leave()

    def _listen(self) -> None:
        """Hurry and learn faster while traffic drifts."""
        for segment in self._alarms.new():
            logger.info("%s drifts: the student learns faster", segment)
            self._rate.alarm()

    def _forget(self) -> None:
        """Leave nothing of erased tenants in what is examined, trained on and stored."""
        honoured = self._feed.erased
        if not self._forgetting.due(honoured):
            return
        self._examiner.forget_champion()
        self._regate.drop()
        self._meter.drop()
        if self._replicas is not None:
            self._replicas.forget()
        try:
            self._notebook.collect(self._feed, wait=True)
            self._save()
            self._notebook.collect(self._feed, wait=True)
            if not self._notebook.unsaved:
                self._forgetting.settle(honoured)
        except StoreError as error:
            logger.warning("an erasure will be settled later: %s", error)

    def _save(self, patience: int | None = None) -> None:
        self._notebook.save(self._student, self._feed, self._examiner, self._rate, patience)
