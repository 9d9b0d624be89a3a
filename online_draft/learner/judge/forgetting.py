"""Honours requests to erase in what learners have stored."""

from __future__ import annotations

import time

from online_draft.buffer.erasures import ErasureLog
from online_draft.learner.checkpoint import CheckpointStore, erase_elsewhere
from online_draft.store import ArtifactStore

RETRY_S = 2.0


class Forgetting:
    """What is settled is true of every checkpoint in the store, of other targets, too. Not thread-safe."""

    def __init__(self, store: ArtifactStore, fingerprint: str) -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._log = ErasureLog(store)
        self._retry_at = float("-inf")
        self.settled = 0
        """Requests up to this number are honoured in memory and in the store."""

    def due(self, honoured: int) -> bool:
        """Whether what is honoured in memory must be settled now; a failure is tried again a little later."""
        if honoured <= self.settled or time.monotonic() < self._retry_at:
            return False
        self._retry_at = time.monotonic() + RETRY_S
        return True

    def settle(self, honoured: int) -> None:
        """Delete or write anew every checkpoint that knows an erased tenant. Idempotent; blocks. StoreError
        without a store. No checkpoint may be on its way meanwhile."""
        requests = [request for request in self._log.read() if request.number <= honoured]
        CheckpointStore(self._store, self._fingerprint).erase(requests)
        erase_elsewhere(self._store, self._fingerprint, requests)
        self.settled = honoured
