"""The learner's own copy of the target, or of its head, kept at the weights that were decided last."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Self

from online_draft.errors import JournalError, StoreError
from online_draft.learner.config import Features, LearnerPlace
from online_draft.learner.features.calls import ReplicaCalls
from online_draft.learner.features.replicas import ReplicaFeatures
from online_draft.learner.idle.gpu import target_dtype
from online_draft.models.head import TargetHead
from online_draft.models.loading import LoadedTarget, load_target
from online_draft.models.replacement import replace_weights
from online_draft.registry.target_line import TargetLine, fetch_copy
from online_draft.store import ArtifactStore

logger = logging.getLogger(__name__)


class OwnTarget:
    """Loaded once; an update of the target is copied into the same memory. Blocks on the artifact store."""

    def __init__(
        self, place: LearnerPlace, origin: LoadedTarget, replicas: ReplicaFeatures | None = None
    ) -> None:
        """`origin` is the target as configured. `replicas` are told whose features are wanted."""
        self._place = place
        self._origin = self._loaded = origin
        self._replicas = replicas
        self._store = ArtifactStore(place.store)
        self._line = TargetLine(self._store, origin.fingerprint)

    @classmethod
    def load(cls, place: LearnerPlace, features: Features) -> Self:
        """Read the target: all of it, or only its head where replicas make the features. TargetError."""
        dtype = target_dtype(place.device, place.dtype)
        if features == "local":
            return cls(place, load_target(place.target, place.device, dtype))
        replicas = ReplicaFeatures(ReplicaCalls(place.app, place.deployment))
        head = load_target(place.target, place.device, dtype, partial(TargetHead, replicas))
        return cls(place, head, replicas)

    def current(self) -> LoadedTarget:
        """The target as decided, on the learner's device. Nothing may compute with it meanwhile. After an
        error (StoreError, ArtifactError, TargetError) ask again before it is used."""
        fingerprint = self._line.current()
        self._origin.target.to(self._place.device)
        if fingerprint != self._loaded.fingerprint:
            directory = self._origin.path
            if fingerprint != self._origin.fingerprint:
                directory = fetch_copy(self._store, fingerprint, Path(self._place.cache_dir))
            logger.info("the learner's target is %s now, was %s", fingerprint, self._loaded.fingerprint)
            self._loaded = replace_weights(self._origin, directory, fingerprint)
        if self._replicas is not None:
            self._replicas.target = fingerprint
        return self._loaded

    def outdated(self) -> bool:
        """Whether another target was decided. False while nobody knows."""
        try:
            return self._line.current() != self._loaded.fingerprint
        except (StoreError, JournalError) as error:
            logger.debug("updates of the target can't be read: %s", error)
            return False
