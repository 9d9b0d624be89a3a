"""When the learner may work: what replicas say of their load, and what a busy service leaves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import redis

from online_draft.learner.config import LearnerConfig
from online_draft.learner.idle.bell import BusyBell
from online_draft.learner.idle.idleness import AlwaysIdle, Idleness
from online_draft.learner.idle.timekeeping import FloorShare
from online_draft.store import RedisKeys

Interrupted = Callable[[], bool]
"""A piece of work asks it on its way, and ends early when it says True."""


class Lookout:
    """Not thread-safe, but for the answers of what `begin` gives. Blocks on Redis only."""

    def __init__(
        self,
        redis_url: str,
        client: redis.Redis,
        keys: RedisKeys,
        config: LearnerConfig,
        cuda: bool,
        others: Sequence[RedisKeys] = (),
    ) -> None:
        self._bell = BusyBell(redis_url, keys, others)
        self._floor = FloorShare(config.pace.floor_share)
        self._clock = time.monotonic if cuda else time.thread_time
        self._on_floor_since: float | None = None
        self._idleness: Idleness | AlwaysIdle = AlwaysIdle()
        if config.mode == "idle":
            self._idleness = Idleness(client, keys, config.pace.idle_ms, self._bell.take, others=others)
            self._bell.start()

    @property
    def idle(self) -> bool:
        """Whether serving was idle when the work under way began."""
        return self._on_floor_since is None

    @property
    def reason(self) -> str:
        """Why no work may begin."""
        return self._idleness.reason

    def begin(self, hurry: bool = False) -> Interrupted | None:
        """Look at the load: what the next piece of work must ask, or None when it mustn't begin. With `hurry`
        it may begin sooner after a request. Call `done` after it."""
        self._idleness.hurry = hurry
        self._on_floor_since = None
        if self._idleness.idle():
            self._floor.rest()
            return self._bell.rung
        if self._idleness.known and self._floor.due():
            self._on_floor_since = self._clock()
            return _never
        return None

    def done(self) -> None:
        """The piece of work has ended."""
        if self._on_floor_since is not None:
            self._floor.spend(self._clock() - self._on_floor_since)

    def wait_until_listening(self, seconds: float) -> bool:
        """Whether a replica that becomes busy would be heard, within that time."""
        return self._bell.listening.wait(seconds)

    def close(self) -> None:
        """End what listens. Idempotent."""
        self._bell.close()


def _never() -> bool:
    return False
