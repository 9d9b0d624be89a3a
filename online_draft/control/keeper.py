"""Keeps the learner alive, and at the current code."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from online_draft.control.config import ControlConfig

logger = logging.getLogger(__name__)


class LearnerKeeper:
    """Pings the learner now and then and starts it anew when it is dead, silent or runs other code.

    `ping(timeout_s)` gives the code version of a learner whose thread runs, "" for one whose thread has
    ended, and raises when there is no answer; `revive` replaces the learner, whatever is left of it.
    """

    def __init__(
        self,
        config: ControlConfig,
        code_version: str,
        ping: Callable[[float], str],
        revive: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._code_version = code_version
        self._ping = ping
        self._revive = revive
        self._clock = clock
        self._due = clock()
        self._missed = 0
        self._revived = 0
        self._trouble = ""
        self._foreign = self._last_foreign = ""

    def check(self) -> None:
        """Ping if it is time, revive if need be. Never raises; blocks for a ping and a revival."""
        if self._clock() < self._due:
            return
        self._trouble = self._look()
        self._missed = self._missed + 1 if self._trouble.startswith("no answer") else 0
        # An answer that says "dead" or "old code" needs no second opinion.
        if self._missed >= self._config.max_missed or self._trouble.startswith("it "):
            logger.warning("the learner is started anew: %s", self._trouble)
            try:
                self._revive()
                self._revived += 1
                self._missed = 0
                self._foreign = self._last_foreign
            except Exception as error:
                logger.exception("the learner could not be started anew")
                self._trouble = f"could not be started: {error}"
        self._due = self._clock() + self._config.ping_every_s

    def status(self) -> dict[str, Any]:
        """Plain data."""
        return {"missed": self._missed, "revived": self._revived, "trouble": self._trouble}

    def _look(self) -> str:
        try:
            version = self._ping(self._config.ping_timeout_s)
        except Exception as error:
            return f"no answer: {error}"
        if not version:
            return "it has ended"
        if version == self._code_version:
            return ""
        if version == self._foreign:
            # It was replaced once and runs this again: the code on disk is newer than ours.
            return f"other code: it runs {version}, control runs {self._code_version}"
        self._last_foreign = version
        return f"it runs {version}, not {self._code_version}"
