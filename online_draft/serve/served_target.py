"""The target of one replica while it serves: which weights it has, and what follows that target's journal."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from online_draft.decoding.retarget import TargetChange
from online_draft.errors import OnlineDraftError
from online_draft.models.replacement import replace_weights
from online_draft.registry.journal import Decision
from online_draft.registry.target_line import DRAIN_S
from online_draft.serve.following import Following
from online_draft.serve.target_watcher import TargetWatcher
from online_draft.serve.targets import TargetRoom

if TYPE_CHECKING:
    from online_draft.decoding.engine import Engine
    from online_draft.serve.engine_thread import EngineThread

logger = logging.getLogger(__name__)


class ServedTarget:
    """Makes the updates of its target's line between two steps of the engine, each with watchers of its own.

    `loaded` and `following` are those of now. The engine's thread changes `loaded`; everybody may read.
    """

    def __init__(
        self,
        room: TargetRoom,
        engine: EngineThread[Engine],
        follow: Callable[[str], Following],
        renewed: Callable[[], None],
        interval_s: float,
    ) -> None:
        """Load what was decided last. `follow` makes the watchers of a fingerprint's drafters; `renewed` is
        told on the engine's thread that the drafters so far are worth nothing any more."""
        self.room = room
        self.loaded = room.first()
        self.following = follow(self.loaded.fingerprint)
        self._engine = engine
        self._follow = follow
        self._renewed = renewed
        self._torn = self._closing = False
        self._watcher = TargetWatcher(room.line, lambda: self.loaded.fingerprint, self._change, interval_s)

    def start(self) -> None:
        """Begin to follow; returns when a drafter was resolved, else OnlineDraftError."""
        self.following.start()
        self.following.wait()
        self._watcher.start()

    def close(self) -> None:
        """End all threads. Idempotent."""
        self._closing = True
        self._watcher.stop()
        self.following.stop()

    def check(self) -> None:
        """OnlineDraftError when an update failed halfway: these weights must not be used."""
        if self._torn:
            raise OnlineDraftError("an update of the target failed halfway; the replica must be replaced")

    def refresh(self) -> None:
        """Look for updates now."""
        self._watcher.refresh()

    def status(self) -> dict[str, Any]:
        """Plain data; what was decided about drafters, too."""
        return {
            "fingerprint": self.loaded.fingerprint,
            "origin": self.room.line.origin,
            "target_update": self._watcher.status(),
            **self.following.status(),
        }

    def _change(self, decision: Decision) -> None:
        """Other weights in the place of the target's, when its answers are finished. Blocks. After an error
        the old ones serve on, if they are whole."""
        fingerprint, before = str(decision.version), self.loaded.fingerprint
        directory = self.room.directory(fingerprint)
        following = self._follow(fingerprint)

        def write() -> None:
            self._engine.excuse()
            self._torn = True
            self.loaded = replace_weights(self.loaded, directory, fingerprint)
            self._renewed()
            self._torn = False

        drain_s = float(decision.numbers.get("drain_s", DRAIN_S))
        change = TargetChange(write, following.resolve, drain_s)
        self.following.stop()
        try:
            engine = self._engine.call(lambda engine: _begin(engine, change)).result()
            while not _done(change):
                self._engine.check()
                if self._engine.call(lambda engine: engine).result() is not engine:
                    raise OnlineDraftError("the engine was rebuilt while the target was to be updated")
            aborted = change.done.result()
        except BaseException:
            following = self._follow(before)
            raise
        finally:
            if not self._closing:
                self.following = following
                following.start()
        logger.warning("the target is %s now, was %s; %d answers aborted", fingerprint, before, aborted)


def _begin(engine: Engine, change: TargetChange) -> Engine:
    engine.update_target(change)
    return engine


def _done(change: TargetChange) -> bool:
    """Whether a change was made, after a moment at most."""
    with contextlib.suppress(TimeoutError):
        change.done.exception(0.5)
    return change.done.done()
