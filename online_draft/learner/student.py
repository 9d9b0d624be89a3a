"""The champion, and the drafter that learns to beat it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from online_draft.learner.config import LearnerConfig
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.models.trimming import retrimmed
from online_draft.training.features import Record
from online_draft.training.trainer import SliceMetrics, Trainer, TrainerConfig
from online_draft.training.vocabulary import emitted_tokens, refreshed_vocab

_STATE = "trainer.safetensors"


class Student:
    """Owns the trainer. Its weights start from the champion's and stay when its own proposal is promoted."""

    def __init__(self, target: Target, config: LearnerConfig) -> None:
        self._target = target
        self._config = TrainerConfig(
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup_steps,
            anchors=config.anchors,
            max_tokens=config.max_tokens,
            ema=config.ema,
            seed=config.seed,
        )
        self.version: str | None = None
        """The champion that the student wants to beat."""
        self.proposed: str | None = None
        """The version in which the student's weights were last published."""
        self._champion: Drafter | None = None
        self._trainer: Trainer | None = None

    @property
    def champion(self) -> Drafter:
        """The drafter to beat, frozen."""
        assert self._champion is not None
        return self._champion

    @property
    def steps(self) -> int:
        """Updates since the student last started from a champion."""
        return self._trainer.steps if self._trainer is not None else 0

    def follow(self, version: str, champion: Drafter) -> bool:
        """Another version is champion. True when it is the student's own last proposal: it goes on learning;
        otherwise it starts anew from the champion."""
        own = version == self.proposed and self._trainer is not None
        self.version, self._champion = version, champion
        self.proposed = None
        if not own:
            self.restart()
        return own

    def restart(self) -> None:
        """Forget what was learnt since the champion."""
        self._trainer = Trainer(self.champion.clone(), self._target, self._config)
        self.proposed = None

    def slice(self, records: Sequence[Record]) -> SliceMetrics:
        """One update."""
        assert self._trainer is not None
        return self._trainer.slice(records)

    @torch.no_grad()
    def candidate(self, recent: Sequence[Record] = ()) -> Drafter:
        """A frozen copy of the student, rounded as it would be published.

        Heads that score some tokens only score those of the `recent` records first.
        """
        assert self._trainer is not None
        copy = _follow_tokens(self._trainer.candidate(), recent)
        for parameter in copy.parameters():
            parameter.copy_(parameter.bfloat16())
        return copy

    def to_bytes(self) -> bytes:
        """Weights, optimiser and random state."""
        assert self._trainer is not None
        with tempfile.TemporaryDirectory(prefix="od-trainer-") as scratch:
            path = Path(scratch) / _STATE
            self._trainer.save(path)
            return path.read_bytes()

    def restore(self, version: str, champion: Drafter, proposed: str | None, state: bytes) -> None:
        """Go on where `to_bytes` left off. ArtifactError when that doesn't fit; nothing has changed then."""
        trainer = Trainer(champion.clone(), self._target, self._config)
        with tempfile.TemporaryDirectory(prefix="od-trainer-") as scratch:
            path = Path(scratch) / _STATE
            path.write_bytes(state)
            trainer.load(path)
        self.version, self._champion, self._trainer, self.proposed = version, champion, trainer, proposed


def _follow_tokens(drafter: Drafter, recent: Sequence[Record]) -> Drafter:
    ids_V = drafter.draft_ids_V
    if ids_V is None or not recent:
        return drafter
    outputs = (np.array(record.output_ids, dtype=np.int64) for record in recent)
    ids = refreshed_vocab(ids_V, emitted_tokens(outputs, drafter.config.vocab_size))
    if torch.equal(ids, ids_V):
        return drafter
    return retrimmed(drafter, ids).requires_grad_(False).eval()
