"""The champion, and the drafter that learns to beat it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from online_draft.learner.config import LearnerConfig
from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.models.trimming import retrimmed
from online_draft.training.features import Record
from online_draft.training.packing import fitted_rows
from online_draft.training.trainer import SliceMetrics, Trainer, TrainerConfig
from online_draft.training.trainer_state import state_bytes
from online_draft.training.vocabulary import emitted_tokens, refreshed_vocab

logger = logging.getLogger(__name__)

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
            trim=config.trim,
            leash=config.leash,
        )
        self._max_bad = config.max_bad_updates
        self._bad = 0
        self._rewound = False
        self.rewinds = 0
        """How often weights went back because updates stayed bad."""
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
        elif self._trainer is not None and self._trainer.leash is not None:
            self._trainer.leash.tie(dict(champion.named_parameters()))
        return own

    def leave(self) -> None:
        """Hold no tensor any more, as before the first `follow` or `restore`."""
        self.version, self.proposed = None, None
        self._champion, self._trainer = None, None

    def restart(self) -> None:
        """Forget what was learnt since the champion."""
        self._trainer = Trainer(self.champion.clone(), self._target, self._config)
        self.proposed = None

    def slice(
        self, records: Sequence[Record], interrupted: Callable[[], bool] = lambda: False
    ) -> SliceMetrics:
        """One update; none when `interrupted()` says so on the way. After some that weren't finite, one after
        the other, the weights go back to their average, or if need be to the champion."""
        assert self._trainer is not None
        metrics = self._trainer.slice_packed(fitted_rows(records, self._config.max_tokens), interrupted)
        if metrics.updated:
            self._bad, self._rewound = 0, False
        elif metrics.tokens:
            self._bad += 1
        if self._bad >= self._max_bad:
            self._go_back(self._trainer)
        return metrics

    @property
    def rate(self) -> float:
        """What the learning rate is multiplied with."""
        return self._trainer.rate if self._trainer is not None else 1.0

    @rate.setter
    def rate(self, factor: float) -> None:
        if self._trainer is not None:
            self._trainer.rate = factor

    def counts(self) -> dict[str, int]:
        """What training left out since the student last started from a champion, and all rewinds."""
        trainer = self._trainer
        leash = None if trainer is None else trainer.leash
        return {
            "skipped": 0 if trainer is None else trainer.skipped,
            "trimmed": 0 if trainer is None else trainer.trimmed,
            "leash_pulls": 0 if leash is None else leash.pulls,
            "rewinds": self.rewinds,
        }

    def _go_back(self, trainer: Trainer) -> None:
        """To the average; if that was in vain or can't be done, to the champion."""
        self._bad = 0
        self.rewinds += 1
        if self._rewound or not trainer.rewind():
            logger.warning("updates stay bad, the student starts anew")
            self.restart()
        else:
            logger.warning(
                "%d updates in a row were bad, the weights go back to their average", self._max_bad
            )
        self._rewound = True

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

    def snapshot(self) -> Callable[[], bytes]:
        """A copy of weights, optimiser and random state, made now; any thread may make bytes of it later."""
        assert self._trainer is not None
        tensors, head = self._trainer.state()
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        return lambda: state_bytes(copies, head)

    def to_bytes(self) -> bytes:
        """Weights, optimiser and random state."""
        return self.snapshot()()

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
