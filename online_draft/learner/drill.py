"""Slices of training: which records, how fast, and what is written down of it."""

from __future__ import annotations

import logging
import random

import torch

from online_draft.learner.feed import RecordFeed
from online_draft.learner.idle.lookout import Interrupted
from online_draft.learner.idle.pacer import Pacer
from online_draft.learner.judge.examiner import Examiner
from online_draft.learner.notebook import Notebook
from online_draft.learner.rate import LearningRate
from online_draft.learner.report import Report
from online_draft.learner.student import Student

logger = logging.getLogger(__name__)


class Drill:
    """Trains the student a slice at a time. Not thread-safe."""

    def __init__(
        self,
        seed: int,
        student: Student,
        feed: RecordFeed,
        pacer: Pacer,
        rate: LearningRate,
        notebook: Notebook,
        examiner: Examiner,
        report: Report,
    ) -> None:
        self._seed = seed
        self._student = student
        self._feed = feed
        self._pacer = pacer
        self._rate = rate
        self._notebook = notebook
        self._examiner = examiner
        self._report = report

    def slice(self, interrupted: Interrupted) -> None:
        """One slice, as long as the pacer wants it; none where `interrupted` says so or memory runs out."""
        notebook, total = self._notebook, self._notebook.total
        rng = random.Random(f"{self._seed}:{total['slices']}")
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

    def restart(self) -> None:
        """The student forgets what it learnt since the champion."""
        self._student.restart()
        self._rate.forget_losses()
