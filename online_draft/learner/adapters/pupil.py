"""An adapter made anew from what the reservoirs hold of its segment, slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from online_draft.core import Interaction
from online_draft.learner.config import LearnerConfig
from online_draft.learner.judge.lineage import Lineage
from online_draft.models.adapters.adapter import Adapter, AdapterCard
from online_draft.models.artifact import base_digest
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.training.adapters.student import AdapterStudent, LoraSizes
from online_draft.training.trainer import SliceMetrics, Trainer
from online_draft.training.trainer_config import TrainerConfig


class AdapterPupil:
    """Learns what one segment needs other than the champion has. Its trainer's state is in memory only."""

    def __init__(
        self,
        base: Drafter,
        version: str,
        segment: str,
        target: Target,
        fingerprint: str,
        config: LearnerConfig,
    ) -> None:
        """Imports `peft`, seconds of work the first time. ArtifactError for a base that takes no adapters."""
        origin = {"made_by": "learner", "training": asdict(config.adapters)}
        self.card = AdapterCard(
            segment, base.kind, fingerprint, base_digest(base), version, provenance=origin
        )
        self.lineage = Lineage()
        """Whose records it learnt from."""
        self._steps = config.adapters.steps
        self._student = AdapterStudent(base, self.card, LoraSizes(config.adapters.rank, seed=config.seed))
        self._trainer = Trainer(
            self._student,
            target,
            TrainerConfig(
                learning_rate=config.adapters.learning_rate,
                warmup_steps=config.warmup_steps,
                decay_steps=config.adapters.steps,
                anchors=config.anchors,
                max_tokens=config.max_tokens,
                seed=config.seed,
            ),
        )

    @property
    def steps(self) -> int:
        """Slices that it has learnt for."""
        return self._trainer.slices

    @property
    def done(self) -> bool:
        """Whether it has learnt for as long as it may."""
        return self.steps >= self._steps

    def slice(self, records: Sequence[Interaction], interrupted: Callable[[], bool]) -> SliceMetrics:
        """One update; none when `interrupted()` says so on the way."""
        metrics = self._trainer.slice(records, interrupted)
        if not metrics.interrupted:
            self.lineage.note(records)
        return metrics

    def adapter(self) -> Adapter:
        """A copy as it is now."""
        return self._student.adapter()

    def save(self, directory: Path, card: AdapterCard) -> None:
        """Write `peft`'s files and the card."""
        self._student.save(directory, card)
