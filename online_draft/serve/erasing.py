"""Follows requests to erase a tenant: a replica forgets what its n-gram memory and its writer hold of it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from online_draft.buffer.erasures import ErasureLog
from online_draft.errors import EngineDead, StoreError
from online_draft.store import ArtifactStore

logger = logging.getLogger(__name__)


class ErasureWatcher:
    """Looks at the artifact store every `interval_s` on its own thread. Unreachable: looks again.

    `forget` functions erase a tenant where this process keeps something of it and may block; they are called
    in order, and again if one raises. `covers` tells requests that began before an erasure from later ones.
    """

    def __init__(
        self, store: ArtifactStore, *forget: Callable[[str], object], interval_s: float = 1.0
    ) -> None:
        """What was asked for before now concerns others: there is nothing in this process yet."""
        self._log = ErasureLog(store)
        self._forget = forget
        self._interval_s = interval_s
        self._heard: dict[str, float] = {}
        """By tenant, when (monotonic) its last erasure was heard of."""
        self._trouble: str | None = None
        try:
            self._honoured = self._log.last()
        except StoreError:
            self._honoured = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="erasures", daemon=True)

    def start(self) -> None:
        """Start following."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def covers(self, tenant: str, started: float) -> bool:
        """Whether a tenant was erased after `started` (monotonic): then no record is made of what began then.
        From any thread; never blocks."""
        return started <= self._heard.get(tenant, float("-inf"))

    def status(self) -> dict[str, Any]:
        """`honoured`: the number up to which requests are, and the `trouble` with further ones."""
        return {"honoured": self._honoured, "trouble": self._trouble}

    def refresh(self) -> None:
        """Look once and do what is asked. Never raises; blocks."""
        try:
            for request in self._log.read(after=self._honoured):
                self._heard[request.tenant] = time.monotonic()
                for forget in self._forget:
                    forget(request.tenant)
                self._honoured = request.number
                logger.info("request %d to erase a tenant is honoured", request.number)
        except (StoreError, EngineDead) as error:
            # A dead engine took its memory with it; the next one hears of the request as well.
            if self._trouble is None:
                logger.warning("a request to erase waits: %s", error)
            self._trouble = str(error)
            return
        self._trouble = None

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s * random.uniform(0.75, 1.25)):
            try:
                self.refresh()
            except Exception:
                logger.exception("following requests to erase failed; serving goes on")
