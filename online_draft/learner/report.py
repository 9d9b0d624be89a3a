"""What the learner says of itself: its state and why, what it did last; cached in Redis for others."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import redis

from online_draft.errors import StoreError
from online_draft.learner.idle.timekeeping import StateTimes
from online_draft.learner.judge.gate import Verdict
from online_draft.registry.revision import code_version
from online_draft.store import RedisKeys
from online_draft.store.packing import pack
from online_draft.training.trainer import SliceMetrics

logger = logging.getLogger(__name__)

State = Literal["waiting", "training", "yielding", "evaluating", "proposing", "paused"]
STATES: tuple[State, ...] = get_args(State)
NAME = "learner"


class Report:
    """Not thread-safe but for `status`, which reads values that are replaced as a whole."""

    def __init__(
        self, client: redis.Redis, keys: RedisKeys, every_s: float = 1.0, at_change_s: float = 0.1
    ) -> None:
        self._client = client
        self._keys = keys
        self._every_s = every_s
        self._at_change_s = at_change_s
        self._published_at = float("-inf")
        self._published: State | None = None
        self._healthy = True
        self.state: State = "waiting"
        self._times = StateTimes(self.state)
        self._reason = "starting"
        self._since_ms = _now_ms()
        self._loss: float | None = None
        self._grad_norm: float | None = None
        self._last_look: dict[str, Any] | None = None

    def enter(self, state: State, reason: str) -> None:
        """The state from now on."""
        if state != self.state:
            self._since_ms = _now_ms()
        self._times.enter(state)
        self.state, self._reason = state, reason

    def note_slice(self, metrics: SliceMetrics) -> None:
        """What the last slice did; the loss is smoothed over about ten."""
        if metrics.updated:
            self._loss = metrics.loss if self._loss is None else 0.9 * self._loss + 0.1 * metrics.loss
            self._grad_norm = metrics.grad_norm

    def note_look(self, verdict: Verdict) -> None:
        """What the gate saw last."""
        numbers = {**verdict.as_numbers(), "passed": verdict.passed, "reason": verdict.reason}
        self._last_look = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in numbers.items()
        }

    def status(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "state": self.state,
            "reason": self._reason,
            "state_since_ms": self._since_ms,
            "state_ms": self._times.as_dict(),
            "loss": self._loss,
            "grad_norm": self._grad_norm,
            "last_look": self._last_look,
            "pid": os.getpid(),
            "code_version": code_version(),
        }

    def publish(self, status: Callable[[], dict[str, Any]]) -> None:
        """Cache `status()` in Redis once a second, and sooner when the state changed. Never raises."""
        now = time.monotonic()
        pause = self._at_change_s if self.state != self._published else self._every_s
        if now < self._published_at + pause:
            return
        self._published_at, self._published = now, self.state
        try:
            self._client.set(self._keys.status(NAME), pack(status()), ex=self._keys.status_ttl_s)
            self._healthy = True
        except (redis.RedisError, OSError, StoreError) as error:
            if self._healthy:
                logger.warning("the learner's status can't be published: %s", error)
            self._healthy = False


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
