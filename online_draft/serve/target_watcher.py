"""Follows the line of a target's updates and has a replica make them."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Any

from online_draft.errors import OnlineDraftError
from online_draft.registry.journal import Decision
from online_draft.registry.target_line import TargetLine

logger = logging.getLogger(__name__)

RETRY_S = 10.0


class TargetWatcher:
    """Polls on its own thread; `change` brings the replica to what was decided last and may take its time.

    Whatever keeps it from that is in `status` and tried again; the old target goes on serving meanwhile.
    """

    def __init__(
        self,
        line: TargetLine,
        serves: Callable[[], str],
        change: Callable[[Decision], None],
        interval_s: float,
    ) -> None:
        """`serves` gives the fingerprint of the weights in use."""
        self._line = line
        self._serves = serves
        self._change = change
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._decided = serves()
        self._changing = False
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="target", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def status(self) -> dict[str, Any]:
        """What was decided, whether the change is under way, and why it isn't made."""
        return {"decided": self._decided, "changing": self._changing, "trouble": self._trouble}

    def refresh(self) -> None:
        """Look once and do what was decided. Errors of the store and of `change`."""
        updates = self._line.updates()
        if not updates:
            return
        self._decided = str(updates[-1].version)
        if self._decided == self._serves():
            return
        self._changing = True
        try:
            self._change(updates[-1])
        finally:
            self._changing = False

    def _run(self) -> None:
        while not self._stop.is_set():
            pause = self._interval_s * random.uniform(0.75, 1.25)
            try:
                self.refresh()
                self._trouble = ""
            except Exception as error:
                if not isinstance(error, OnlineDraftError) or str(error) != self._trouble:
                    logger.error("the target can't be updated, the old one serves: %s", error)
                self._trouble = str(error)
                pause = RETRY_S
            self._stop.wait(pause)
