"""The learner: reads what was served, trains while nobody waits, proposes what it can prove."""

from __future__ import annotations

import logging
import random
import threading
import time
from pathlib import Path
from typing import Any

import redis
import torch

from online_draft.errors import ArtifactError, JournalError, StoreError
from online_draft.learner.adapters.regate import Regate
from online_draft.learner.adapters.view import RegateView
from online_draft.learner.alarms import DriftAlarms
from online_draft.learner.checkpoint import CheckpointStore
from online_draft.learner.config import LearnerConfig, LearnerPlace
from online_draft.learner.drift_meter import DriftMeter
from online_draft.learner.feed import RecordFeed, assistant_tokens
from online_draft.learner.idle.gpu import Residence
from online_draft.learner.idle.lookout import Interrupted, Lookout
from online_draft.learner.idle.pacer import Pacer
from online_draft.learner.judge.examiner import Examined, Examiner
from online_draft.learner.judge.forgetting import Forgetting
from online_draft.learner.judge.ladder_view import LadderView
from online_draft.learner.notebook import Notebook
from online_draft.learner.rate import LearningRate
from online_draft.learner.report import Report, State
from online_draft.learner.student import Student
from online_draft.models.loading import LoadedTarget
from online_draft.registry.manifest import Provenance
from online_draft.registry.revision import git_revision
from online_draft.registry.wakeups import publish_wakeup
from online_draft.store import ArtifactStore, connect_redis

logger = logging.getLogger(__name__)

FOLLOW_EVERY_S = 0.5
WAIT_S = 0.1
RETRY_S = 1.0


class LearnerLoop:
    """One learner of one target. `run` or `tick` by one thread; `status` by any.

    A tick does one small piece of work at most: one slice, one part of a look, one decision. Before each it
    asks whether the hardware is idle. Its state is on the artifact store: a new loop goes on from the last
    checkpoint, and records come again unless that checkpoint held them.
    """

    def __init__(self, place: LearnerPlace, config: LearnerConfig, loaded: LoadedTarget) -> None:
        """Restore what the last learner left. Needs the artifact store (StoreError), but not yet Redis."""
        self._config = config
        self._client = connect_redis(place.redis_url)
        store = ArtifactStore(place.store)
        self._notebook = Notebook(CheckpointStore(store, loaded.fingerprint), config.pace.checkpoint_every_s)
        restored = self._notebook.restored
        self._feed = RecordFeed(
            place.redis_url,
            place.keys,
            loaded.fingerprint,
            config.reservoirs,
            assistant_tokens(loaded.tokenizer),
            (restored.reader, restored.reservoirs) if restored else None,
            store,
            int(restored.progress.get("erased", 0)) if restored else 0,
        )
        self._forgetting = Forgetting(store, loaded.fingerprint)
        self._view = LadderView(
            store,
            loaded.target,
            loaded.fingerprint,
            Path(place.cache_dir),
            lambda decision: publish_wakeup(self._client, place.keys, decision),
        )
        self._residence = Residence(loaded.target)
        self._student = Student(loaded.target, config)
        self._examiner = Examiner(loaded.target, config, place.tree_nodes or 16)
        self._regate = Regate(
            loaded.target,
            config,
            place.tree_nodes or 16,
            RegateView(
                store,
                loaded.fingerprint,
                Path(place.cache_dir),
                lambda decision: publish_wakeup(self._client, place.keys, decision),
            ),
        )
        device = loaded.target.device.type
        self._pacer = Pacer(config.pace.limit_ms(device), config.pace.max_batch, cpu=device != "cuda")
        self._meter = DriftMeter(
            self._client,
            place.keys,
            loaded.fingerprint,
            loaded.target,
            Pacer(config.pace.limit_ms(device), config.gate.max_records, cpu=device != "cuda"),
            self._view.fetch,
        )
        self._lookout = Lookout(place.redis_url, self._client, place.keys, config, device == "cuda")
        self._rate = LearningRate(config.rate)
        self._alarms = DriftAlarms(self._client, place.keys, loaded.fingerprint)
        self._report = Report(self._client, place.keys)
        self._trouble = ""
        self._follow_at = self._read_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set, then `close`. What goes wrong in a tick is logged and tried again."""
        while not stop.is_set():
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
        self._lookout.close()
        self._feed.close()
        self._client.close()

    def _work(self, measure: bool, interrupted: Interrupted) -> None:
        """One slice, or one part of a look, or some records measured for drift."""
        if self._examiner.busy:
            self._report.enter("evaluating", "")
            examined = self._examiner.advance(interrupted)
            if examined is not None:
                self._conclude(examined)
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
            self._train(interrupted)

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
                self._restart()
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

    def _train(self, interrupted: Interrupted) -> None:
        notebook, total = self._notebook, self._notebook.total
        rng = random.Random(f"{self._config.seed}:{total['slices']}")
        self._student.rate = self._rate.factor
        with self._pacer as count:
            records = self._feed.reservoirs.sample(count, rng)
            try:
                metrics = self._student.slice(records, interrupted)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                if not self._pacer.shrink():
                    raise
                self._pacer.void()
                logger.warning("no memory for %d records: %d at most from now on", count, self._pacer.batch)
                return
            if metrics.interrupted:
                self._pacer.void()
        if metrics.interrupted:
            total["interrupted"] += 1
            return
        notebook.lineage.note(records)
        notebook.drawn += count
        total["slices"] += 1
        total["draws"] += count
        total["tokens"] += metrics.tokens
        notebook.note()
        self._examiner.note_slice()
        self._rate.note(metrics.loss)
        self._report.note_slice(metrics)

    def _conclude(self, examined: Examined) -> None:
        """Propose what passed; enter a refusal now and then; start anew where the student lost its way."""
        verdict, parent = examined.verdict, self._student.version
        assert parent is not None
        self._notebook.note()
        self._report.note_look(verdict)
        logger.info("look %d: %s", verdict.look, verdict.reason)
        reason, numbers = verdict.reason, verdict.as_numbers()
        if verdict.passed:
            self._report.enter("proposing", reason)
            self._report.publish(self.status)
            provenance = Provenance(
                parent,
                self._feed.seen["training"],
                dict(self._notebook.total),
                git_revision(),
                tenants=self._notebook.lineage.marks(),
            )
            version = self._view.propose(examined.candidate, parent, provenance, reason, numbers)
            if version is not None:
                self._student.proposed = version
                self._notebook.total["proposed"] += 1
                self._save()
            return
        if self._examiner.gate.refusal_due(time.time_ns() // 1_000_000):
            self._view.refuse(examined.candidate, parent, reason, numbers)
            self._notebook.total["refused"] += 1
        if verdict.worse:
            logger.info("the candidate is worse than %s, the student starts anew", parent)
            self._restart()

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

    def _restart(self) -> None:
        self._student.restart()
        self._rate.forget_losses()

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
