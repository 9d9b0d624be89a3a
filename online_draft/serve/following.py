"""What a replica follows of one target's journal: drafter versions and adapters."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from online_draft.errors import OnlineDraftError, StoreError
from online_draft.models.drafter import Drafter
from online_draft.registry.adapters import AdapterRegistry
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.wakeups import START, wait_for_wakeup
from online_draft.serve.adapters import AdapterWatcher
from online_draft.serve.config import ServiceConfig
from online_draft.serve.lineup import Lineup
from online_draft.serve.weights import WeightWatcher
from online_draft.store import ArtifactStore, RedisKeys, connect_redis

if TYPE_CHECKING:
    from online_draft.decoding.engine import Engine
    from online_draft.serve.engine_thread import EngineThread

FIRST_RESOLUTION_TIMEOUT_S = 30.0


class Following:
    """The watchers of one target's drafters; another target has others. Threads start with `start`."""

    def __init__(
        self,
        config: ServiceConfig,
        store: ArtifactStore,
        fingerprint: str,
        redis_url: str,
        engine: EngineThread[Engine],
        load: Callable[[Path], Drafter],
        install: Callable[[Lineup[Drafter]], None],
    ) -> None:
        """`load` and `install` as in `WeightWatcher`."""
        cache = Path(config.cache_dir)
        self.registry = DrafterRegistry(store, fingerprint)
        self.journal = DecisionJournal(store, fingerprint)
        self._adapters = AdapterWatcher(
            AdapterRegistry(store, fingerprint), cache / f"{fingerprint}-adapters", engine
        )
        self._watcher: WeightWatcher[Drafter] = WeightWatcher(
            self.journal,
            self.registry,
            cache / fingerprint,
            load,
            install,
            WakeupHint(redis_url, config.keys),
            config.poll_interval_s,
            then=self._adapters.follow,
            fetch_spread_s=config.scaling.fetch_spread_s,
        )

    def resolve(self) -> None:
        """Read the journal and install what it says on this thread, before `start`. Never raises for a bad
        artifact or journal."""
        self._watcher.resolve()

    def start(self) -> None:
        """Begin to follow."""
        self._watcher.start()

    def wait(self) -> None:
        """Until there was a first resolution; OnlineDraftError when there is none in time."""
        if not self._watcher.ready.wait(FIRST_RESOLUTION_TIMEOUT_S):
            reason = self._watcher.status()["journal_error"] or self._watcher.status()["unusable"]
            raise OnlineDraftError(f"no drafter version could be resolved: {reason}")

    @property
    def speculation_off(self) -> bool:
        """Whether it was decided that nothing is drafted."""
        return self._watcher.speculation_off

    def stop(self) -> None:
        """End the thread. Idempotent."""
        self._watcher.stop()

    def status(self) -> dict[str, Any]:
        """What runs, what was decided, why they differ; adapters too."""
        return {**self._watcher.status(), "adapters": self._adapters.status()}


class WakeupHint:
    """Waits for a decision's wake-up in Redis, or just waits while Redis is away."""

    def __init__(self, redis_url: str, keys: RedisKeys) -> None:
        self._client = connect_redis(redis_url)
        self._keys = keys
        self._after = START

    def __call__(self, seconds: float) -> None:
        try:
            after = wait_for_wakeup(self._client, self._keys, self._after, int(seconds * 1000))
            self._after = after or self._after
        except StoreError:
            self._after = START
            time.sleep(seconds)
