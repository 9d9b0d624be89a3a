"""What a learner must still know after a restart: how it is copied, written, and read again."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from online_draft.errors import ArtifactError, StoreError
from online_draft.learner.checkpoint import Checkpoint, CheckpointStore
from online_draft.learner.feed import RecordFeed
from online_draft.learner.judge.examiner import Examiner
from online_draft.learner.judge.gate import GateBooks
from online_draft.learner.judge.lineage import Lineage
from online_draft.learner.rate import LearningRate
from online_draft.learner.saving import Saver
from online_draft.learner.student import Student
from online_draft.models.drafter import Drafter

logger = logging.getLogger(__name__)

_TOTALS = ("slices", "tokens", "draws", "proposed", "refused", "yields", "interrupted")


class Notebook:
    """Counts, and checkpoints of all that is in the other parts. Not thread-safe; writes on a thread."""

    def __init__(self, store: CheckpointStore, every_s: float) -> None:
        """Read the last checkpoint. StoreError without a store."""
        self.total = dict.fromkeys(_TOTALS, 0)
        self.drawn = 0
        """Records drawn since the last new one."""
        self.lineage = Lineage()
        self.number: int | None = None
        """The newest checkpoint that this learner wrote."""
        self._store = store
        self.restored: Checkpoint | None = None
        """What the last learner left, until a champion is followed."""
        self._counts_known = False
        self.reopen()
        self._saver = Saver(store, every_s)

    def reopen(self) -> None:
        """Go on from the last checkpoint when a champion is followed next. StoreError without a store."""
        self.restored, problems = self._store.load()
        for problem in problems:
            logger.error("the learner can't go on from %s", problem)

    def note(self) -> None:
        """Something has changed that the next checkpoint should hold."""
        self._saver.unsaved = True

    @property
    def unsaved(self) -> bool:
        """Whether something has changed since the last checkpoint, or that couldn't be written."""
        return self._saver.unsaved

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._saver.busy

    def go_on(
        self,
        version: str,
        champion: Drafter,
        champion_since_ms: int,
        student: Student,
        feed: RecordFeed,
        examiner: Examiner,
        rate: LearningRate,
    ) -> None:
        """Take over the checkpoint's counts, and its student if its champion, or its own proposal, is now
        champion. At most once."""
        restored, self.restored = self.restored, None
        known, self._counts_known = self._counts_known, True
        if restored is None:
            return
        progress = restored.progress
        if not known:
            for totals, name in ((self.total, "total"), (feed.seen, "seen")):
                totals.update({key: int(progress[name].get(key, 0)) for key in totals})
        if version not in (progress["version"], progress["proposed"]):
            return
        own = version == progress["proposed"]
        try:
            student.restore(version, champion, None if own else progress["proposed"], restored.trainer)
        except ArtifactError as error:
            logger.error("the student starts anew: %s", error)
            return
        if own:
            examiner.gate.reset(champion_since_ms)
        else:
            examiner.gate.books = GateBooks(**progress["gate"])
        self.lineage.start(progress.get("lineage", ()))
        self.drawn = int(progress["drawn"])
        rate.restore(progress.get("rate", {}))
        logger.info("the student goes on after %d slices", self.total["slices"])

    def save(
        self,
        student: Student,
        feed: RecordFeed,
        examiner: Examiner,
        rate: LearningRate,
        patience: int | None = None,
    ) -> None:
        """Begin to write a checkpoint, unless one is being written or there is no student yet; with
        `patience` only if there is something new, and the last one is that many times the usual age."""
        if student.version is None or self._saver.busy:
            return
        if patience is not None and not ((self.unsaved or feed.unsettled) and self._saver.due(patience)):
            return
        progress: dict[str, Any] = {
            "version": student.version,
            "proposed": student.proposed,
            "gate": asdict(examiner.gate.books),
            "drawn": self.drawn,
            "total": dict(self.total),
            "seen": dict(feed.seen),
            "erased": feed.erased,
            "lineage": self.lineage.marks(),
            "rate": rate.as_dict(),
        }
        reader, reservoirs = feed.to_bytes()
        trainer = student.snapshot()
        self._saver.begin(lambda: Checkpoint(progress, trainer(), reservoirs, reader))

    def collect(self, feed: RecordFeed, wait: bool = False) -> None:
        """Acknowledge the records in a checkpoint that was written. Blocks with `wait`. Never raises."""
        try:
            number = self._saver.collect(wait)
            if number is not None:
                self.number = number
                feed.settle()
        except StoreError as error:
            logger.warning("records stay pending until the next checkpoint: %s", error)

    def close(self) -> None:
        """End the thread after what it writes. Idempotent."""
        self._saver.close()
