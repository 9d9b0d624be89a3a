"""What follows from a look at the candidate: a proposal, a refusal, a new beginning, or nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from online_draft.learner.feed import RecordFeed
from online_draft.learner.judge.examiner import Examined, Examiner
from online_draft.learner.judge.ladder_view import LadderView
from online_draft.learner.notebook import Notebook
from online_draft.learner.report import Report
from online_draft.learner.student import Student
from online_draft.registry.manifest import Provenance
from online_draft.registry.revision import git_revision

logger = logging.getLogger(__name__)


class Conclusion:
    """Acts on what the examiner found. Blocks on the artifact store; its errors are the caller's."""

    def __init__(
        self,
        student: Student,
        feed: RecordFeed,
        notebook: Notebook,
        examiner: Examiner,
        view: LadderView,
        report: Report,
        restart: Callable[[], None],
        publish: Callable[[], None],
    ) -> None:
        """`restart` has the student start anew from the champion; `publish` tells what state it is in."""
        self._student = student
        self._feed = feed
        self._notebook = notebook
        self._examiner = examiner
        self._view = view
        self._report = report
        self._restart = restart
        self._publish = publish

    def draw(self, examined: Examined) -> bool:
        """Propose what passed; enter a refusal now and then; start anew where the student lost its way.
        Whether something was proposed: that should be saved."""
        verdict, parent = examined.verdict, self._student.version
        assert parent is not None
        self._notebook.note()
        self._report.note_look(verdict)
        logger.info("look %d: %s", verdict.look, verdict.reason)
        if verdict.passed:
            return self._propose(examined, parent)
        reason, numbers = verdict.reason, verdict.as_numbers()
        if self._examiner.gate.refusal_due(time.time_ns() // 1_000_000):
            self._view.refuse(examined.candidate, parent, reason, numbers)
            self._notebook.total["refused"] += 1
        if verdict.worse:
            logger.info("the candidate is worse than %s, the student starts anew", parent)
            self._restart()
        return False

    def _propose(self, examined: Examined, parent: str) -> bool:
        verdict, total = examined.verdict, self._notebook.total
        self._report.enter("proposing", verdict.reason)
        self._publish()
        provenance = Provenance(
            parent,
            self._feed.seen["training"],
            dict(total),
            git_revision(),
            tenants=self._notebook.lineage.marks(),
        )
        version = self._view.propose(
            examined.candidate, parent, provenance, verdict.reason, verdict.as_numbers()
        )
        if version is None:
            return False
        self._student.proposed = version
        total["proposed"] += 1
        return True
