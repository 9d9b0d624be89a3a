"""The learner: reads what was served, trains while nobody waits, proposes what it can prove."""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redis

from online_draft.errors import ArtifactError, JournalError, StoreError
from online_draft.learner.checkpoint import Checkpoint, CheckpointStore
from online_draft.learner.config import LearnerConfig, LearnerPlace
from online_draft.learner.examiner import Examined, Examiner
from online_draft.learner.feed import RecordFeed, assistant_tokens
from online_draft.learner.gate import GateBooks
from online_draft.learner.idleness import AlwaysIdle, Idleness
from online_draft.learner.ladder_view import LadderView
from online_draft.learner.pacer import Pacer
from online_draft.learner.report import Report, State
from online_draft.learner.student import Student
from online_draft.models.drafter import Drafter
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
        self._checkpoints = CheckpointStore(store, loaded.fingerprint)
        self._restored, problems = self._checkpoints.load()
        for problem in problems:
            logger.error("the learner can't go on from %s", problem)
        self._feed = RecordFeed(
            place.redis_url,
            place.keys,
            loaded.fingerprint,
            config.reservoirs,
            assistant_tokens(loaded.tokenizer),
            (self._restored.reader, self._restored.reservoirs) if self._restored else None,
        )
        self._view = LadderView(
            store,
            loaded.target,
            loaded.fingerprint,
            Path(place.cache_dir),
            lambda decision: publish_wakeup(self._client, place.keys, decision),
        )
        self._student = Student(loaded.target, config)
        self._examiner = Examiner(loaded.target, config, place.tree_nodes or 16)
        self._pacer = Pacer(
            config.pace.slice_ms, config.pace.max_batch, cpu=loaded.target.device.type != "cuda"
        )
        self._idleness: Idleness | AlwaysIdle = AlwaysIdle()
        if config.mode == "idle":
            self._idleness = Idleness(self._client, place.keys, config.pace.idle_ms)
        self._report = Report(self._client, place.keys)
        self._trouble = ""
        self._follow_at = self._read_at = float("-inf")
        self._saved_at = time.monotonic()
        self._unsaved = False
        self._drawn = 0
        self._total = {"slices": 0, "tokens": 0, "draws": 0, "proposed": 0, "refused": 0, "yields": 0}

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set, then `close`. What goes wrong in a tick is logged and tried again."""
        while not stop.is_set():
            try:
                pause = self.tick()
            except Exception as error:
                logger.exception("the learner failed in a tick and tries again")
                self._examiner.drop()
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
        if self._view.state.learner_paused:
            if self._unsaved:
                self._save()
            return self._rest("paused", "by decision", WAIT_S)
        if self._student.version is None:
            return self._rest("waiting", self._trouble or "there is no champion yet", WAIT_S)
        self._examiner.begin(self._student, self._feed, self._view.state)
        budget = self._config.pace.passes * self._feed.training_records()
        if self._drawn >= budget and not self._examiner.busy:
            self._save_when_due(now)
            return self._rest("waiting", "nothing new to learn" if budget else "no records yet", WAIT_S)
        if not self._idleness.idle():
            if self._report.state in ("training", "evaluating"):
                self._total["yields"] += 1
            self._save_when_due(now, patience=3)
            return self._rest("yielding", self._idleness.reason, self._config.pace.poll_ms / 1000)
        self._save_when_due(now)
        if self._examiner.busy:
            self._report.enter("evaluating", "")
            examined = self._examiner.advance()
            if examined is not None:
                self._conclude(examined)
        else:
            self._report.enter("training", self._examiner.waits_for)
            self._train()
        self._report.publish(self.status)
        return 0.0

    def status(self) -> dict[str, Any]:
        """Plain data: state and why, counts, the last look's numbers."""
        return {
            **self._report.status(),
            "champion": self._student.version,
            "proposed_version": self._student.proposed,
            "journal_seq": self._view.state.seq,
            "steps": self._student.steps,
            **self._total,
            "batch": self._pacer.batch,
            "slice_ms": round(self._pacer.last_ms, 1),
            "looks": self._examiner.gate.books.looks,
            "gate_waits_for": self._examiner.waits_for,
            "unsettled": self._feed.unsettled,
            "feed": self._feed.status(),
        }

    def close(self) -> None:
        """Write a checkpoint if there is something new and give connections back. Idempotent."""
        try:
            if self._unsaved or self._feed.unsettled:
                self._save()
        except StoreError as error:
            logger.warning("the last checkpoint could not be written: %s", error)
        self._feed.close()
        self._client.close()

    def _rest(self, state: State, reason: str, seconds: float) -> float:
        self._report.enter(state, reason)
        self._report.publish(self.status)
        return seconds

    def _read(self) -> None:
        self._read_at = time.monotonic() + self._config.pace.read_every_ms / 1000
        try:
            if self._feed.take():
                self._drawn = 0
        except (StoreError, redis.RedisError, OSError) as error:
            self._read_at = time.monotonic() + RETRY_S
            logger.debug("records can't be read: %s", error)

    def _follow(self) -> None:
        """Do what was decided: another champion, or no for the student's proposal."""
        try:
            state = self._view.refresh()
            if state.champion is not None and state.champion != self._student.version:
                self._follow_champion(state.champion)
            elif self._student.proposed not in (None, state.candidate, state.canary):
                logger.info("%s was refused, the student starts anew", self._student.proposed)
                self._student.restart()
            self._trouble = ""
        except (StoreError, JournalError, ArtifactError) as error:
            if not self._trouble:
                logger.warning("the champion can't be followed: %s", error)
            self._trouble = str(error)
            self._follow_at = time.monotonic() + RETRY_S

    def _follow_champion(self, version: str) -> None:
        champion = self._view.fetch(version)
        restored, self._restored = self._restored, None
        if restored is not None:
            self._go_on(version, champion, restored)
        if self._student.version != version:
            own = self._student.follow(version, champion)
            self._examiner.gate.reset(self._view.champion_since_ms)
            self._drawn = self._drawn if own else 0
            logger.info("%s is champion, the student %s", version, "goes on" if own else "starts from it")
        self._examiner.forget_champion()
        self._unsaved = True

    def _go_on(self, version: str, champion: Drafter, restored: Checkpoint) -> None:
        """Take over the checkpoint's student if its champion, or its own proposal, is champion now."""
        progress = restored.progress
        for totals, name in ((self._total, "total"), (self._feed.seen, "seen")):
            totals.update({key: int(progress[name].get(key, 0)) for key in totals})
        if version not in (progress["version"], progress["proposed"]):
            return
        own = version == progress["proposed"]
        try:
            self._student.restore(version, champion, None if own else progress["proposed"], restored.trainer)
        except ArtifactError as error:
            logger.error("the student starts anew: %s", error)
            return
        if own:
            self._examiner.gate.reset(self._view.champion_since_ms)
        else:
            self._examiner.gate.books = GateBooks(**progress["gate"])
        self._drawn = int(progress["drawn"])
        logger.info("the student goes on after %d slices", self._total["slices"])

    def _train(self) -> None:
        rng = random.Random(f"{self._config.seed}:{self._total['slices']}")
        with self._pacer as count:
            metrics = self._student.slice(self._feed.reservoirs.sample(count, rng))
        self._drawn += count
        self._total["slices"] += 1
        self._total["draws"] += count
        self._total["tokens"] += metrics.tokens
        self._examiner.note_slice()
        self._unsaved = True
        self._report.note_slice(metrics)

    def _conclude(self, examined: Examined) -> None:
        """Propose what passed; enter a refusal now and then; start anew where the student lost its way."""
        verdict, parent = examined.verdict, self._student.version
        assert parent is not None
        self._unsaved = True
        self._report.note_look(verdict)
        logger.info("look %d: %s", verdict.look, verdict.numbers.reason)
        reason, numbers = verdict.numbers.reason, verdict.as_numbers()
        if verdict.numbers.passed:
            self._report.enter("proposing", reason)
            self._report.publish(self.status)
            provenance = Provenance(parent, self._feed.seen["training"], dict(self._total), git_revision())
            version = self._view.propose(examined.candidate, parent, provenance, reason, numbers)
            if version is not None:
                self._student.proposed = version
                self._total["proposed"] += 1
                self._save()
            return
        if self._examiner.gate.refusal_due(time.time_ns() // 1_000_000):
            self._view.refuse(examined.candidate, parent, reason, numbers)
            self._total["refused"] += 1
        if verdict.worse:
            logger.info("the candidate is worse than %s, the student starts anew", parent)
            self._student.restart()

    def _save_when_due(self, now: float, patience: int = 1) -> None:
        due_s = patience * self._config.pace.checkpoint_every_s
        if (self._unsaved or self._feed.unsettled) and now - self._saved_at >= due_s:
            self._save()

    def _save(self) -> None:
        """Write a checkpoint, then acknowledge the records in it. Needs a student."""
        self._saved_at = time.monotonic()
        if self._student.version is None:
            return
        progress = {
            "version": self._student.version,
            "proposed": self._student.proposed,
            "gate": asdict(self._examiner.gate.books),
            "drawn": self._drawn,
            "total": self._total,
            "seen": self._feed.seen,
        }
        reader, reservoirs = self._feed.to_bytes()
        number = self._checkpoints.save(Checkpoint(progress, self._student.to_bytes(), reservoirs, reader))
        self._unsaved = False
        self._report.note_checkpoint(number)
        try:
            self._feed.settle()
        except StoreError as error:
            logger.warning("records stay pending until the next checkpoint: %s", error)
