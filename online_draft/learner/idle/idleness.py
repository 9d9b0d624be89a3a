"""Is the hardware idle? What the replicas say of their load decides; no word means no."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import redis

from online_draft.errors import StoreError
from online_draft.monitor.load import Load, machine_of, read_loads
from online_draft.store import RedisKeys

FORGET_MS = 10_000
"""A replica that was silent for this long is dead, not busy."""

_HURRY = 3
SERVING = "serving"
NEIGHBOUR = "another model is serving"
UNKNOWN = "load unknown"


class Idleness:
    """Asks Redis for every replica's load. `reason` says why it isn't idle. Not thread-safe.

    `rung()` says, and forgets, that a replica was busy meanwhile (`BusyBell.take`). Replicas of other models
    (`others`) count while they are on this machine.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: RedisKeys,
        idle_ms: int,
        rung: Callable[[], bool] = lambda: False,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
        others: Sequence[RedisKeys] = (),
        machine: str | None = None,
    ) -> None:
        self._client = client
        self._others = [replace(other, load_fresh_ms=FORGET_MS) for other in others]
        self._machine = machine or socket.gethostname()
        self._keys = replace(keys, load_fresh_ms=FORGET_MS)
        self._fresh_ms = keys.load_fresh_ms
        self._idle_s = idle_ms / 1000
        self._rung = rung
        self._now_ms = now_ms
        self._clock = clock
        self._busy_at = clock()
        self.reason = ""
        self.hurry = False
        """While it is set, a third of the quiet period is enough."""
        self.known = False
        """Whether the load was known at the last look."""

    def idle(self) -> bool:
        """Whether every replica has been without a request for the quiet period. Blocks on Redis only.

        Unknown counts as busy: no replica has spoken, one has been silent for 2 s, or Redis can't be read.
        """
        rung = self._rung()
        self.reason = self._why_busy() or (SERVING if rung else "")
        self.known = not self.reason.startswith(UNKNOWN)
        now = self._clock()
        if self.reason:
            self._busy_at = now
        elif now - self._busy_at < self._idle_s / (_HURRY if self.hurry else 1):
            self.reason = "just idle"
        return not self.reason

    def _why_busy(self) -> str:
        now_ms = self._now_ms()
        try:
            loads = read_loads(self._client, self._keys, now_ms)
            near = self._neighbours(now_ms)
        except StoreError as error:
            return f"{UNKNOWN}: {error}"
        if not loads:
            return f"{UNKNOWN}: no replica has spoken"
        if any(now_ms - load.at_ms > self._fresh_ms for load in [*loads.values(), *near]):
            return f"{UNKNOWN}: a replica is silent"
        if any(load.busy for load in loads.values()):
            return SERVING
        return NEIGHBOUR if any(load.busy for load in near) else ""

    def _neighbours(self, now_ms: int) -> list[Load]:
        """Loads of other models' replicas on this machine."""
        return [
            load
            for keys in self._others
            for name, load in read_loads(self._client, keys, now_ms).items()
            if machine_of(name) == self._machine
        ]


class AlwaysIdle:
    """The learner has hardware of its own."""

    reason = ""
    hurry = False
    known = True

    def idle(self) -> bool:
        """True."""
        return True
