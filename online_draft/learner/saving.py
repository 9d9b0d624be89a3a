"""Checkpoints without waiting: copied by the learner, written by a thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from online_draft.errors import StoreError
from online_draft.learner.checkpoint import Checkpoint, CheckpointStore

logger = logging.getLogger(__name__)


class Saver:
    """Writes one checkpoint at a time on a thread of its own. Methods by one thread; without `wait`, only
    `close` blocks."""

    def __init__(self, store: CheckpointStore, every_s: float) -> None:
        self.unsaved = False
        """Whether something was learnt or decided since the last checkpoint."""
        self._store = store
        self._every_s = every_s
        self._began_at = time.monotonic()
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[int] | None = None

    @property
    def busy(self) -> bool:
        """Whether one is being written, or was and `collect` wasn't asked yet."""
        return self._writing is not None

    def due(self, patience: int = 1) -> bool:
        """Whether the last one began `patience` times the set time ago."""
        return not self.busy and time.monotonic() - self._began_at >= patience * self._every_s

    def begin(self, copied: Callable[[], Checkpoint]) -> None:
        """Write what `copied` gives (called on the thread). Not while `busy`."""
        assert self._writing is None
        self._began_at = time.monotonic()
        self.unsaved = False
        self._writing = self._pool.submit(lambda: self._store.save(copied()))

    def collect(self, wait: bool = False) -> int | None:
        """The number of the checkpoint that was written since the last call, if one was; it is durable.
        StoreError when it couldn't be written."""
        writing = self._writing
        if writing is None or not (wait or writing.done()):
            return None
        self._writing = None
        try:
            return writing.result()
        except (StoreError, OSError) as error:
            self.unsaved = True
            raise StoreError(f"write a checkpoint: {error}") from error

    def close(self) -> None:
        """End the thread after what it writes. Idempotent."""
        self._pool.shutdown()
