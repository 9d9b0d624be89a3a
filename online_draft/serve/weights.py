"""Fetches the drafter version that the journal decided on, checks it, and swaps it in between two steps."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from online_draft.errors import ArtifactError, ConfigError, JournalError, StoreError
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import LadderState, fold
from online_draft.registry.resolution import Resolution, resolve_champion

logger = logging.getLogger(__name__)

D = TypeVar("D")

RETRY_BAD_S = 30.0
"""How long a version that could not be used is left alone."""


class WeightWatcher(Generic[D]):
    """Follows the journal on its own thread: polling is the truth, `wait` may return early as a hint.

    `load` turns a fetched directory into a drafter, `install` puts a drafter (or None) into the engine
    between two steps. A version that can't be fetched, loaded or installed leaves the running one in place
    and its reason in `status`; while nothing runs yet, previous, baseline and then no drafter are tried. The
    running and the last version stay loaded, so that going back needs no file. An unreachable journal
    changes nothing.
    """

    def __init__(
        self,
        journal: DecisionJournal,
        registry: DrafterRegistry,
        cache_dir: Path,
        load: Callable[[Path], D],
        install: Callable[[D | None, str | None], None],
        wait: Callable[[float], object] | None = None,
        interval_s: float = 1.0,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._cache_dir = cache_dir
        self._load = load
        self._install = install
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._state = LadderState()
        self._resolution: Resolution | None = None
        self._resident: dict[str, D] = {}
        self._bad: dict[str, tuple[str, float]] = {}
        self._journal_error: str | None = None
        self._swaps = 0
        self.running: tuple[D | None, str | None] = (None, None)
        self.ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weights", daemon=True)

    def start(self) -> None:
        """Start following. `ready` is set after the first resolution."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def status(self) -> dict[str, Any]:
        """What runs, what was decided, and why they differ if they do."""
        resolution = self._resolution
        return {
            "ready": self.ready.is_set(),
            "drafter_version": self.running[1],
            "decided_version": self._state.champion,
            "rung": resolution.rung if resolution else None,
            "alarm": resolution.alarm if resolution else False,
            "journal_seq": self._state.seq,
            "journal_error": self._journal_error,
            "unusable": {version: reason for version, (reason, _) in list(self._bad.items())},
            "swaps": self._swaps,
        }

    def refresh(self) -> None:
        """Read the journal once and do what it says. Never raises for a bad artifact or journal."""
        try:
            self._state = fold(self._journal.read(after=self._state.seq), self._state)
        except (StoreError, JournalError) as error:
            if self._journal_error is None:
                logger.warning("the journal can't be read, serving goes on: %s", error)
            self._journal_error = str(error)
            return
        self._journal_error = None
        running = self.running[1]
        if self._state.champion == running and self.ready.is_set():
            self._resolution = Resolution(running, "champion", alarm=False)
            return
        resolution = resolve_champion(self._state, self._usable)
        if resolution.rung != "champion" and running is not None:
            self._note(Resolution(running, resolution.rung, alarm=True))
            return
        if resolution.version != running or not self.ready.is_set():
            self._swap(resolution)
        else:
            self._note(resolution)

    def _swap(self, resolution: Resolution) -> None:
        version = resolution.version
        drafter = self._resident[version] if version is not None else None
        try:
            self._install(drafter, version)
        except ConfigError as error:
            assert version is not None
            self._refuse(version, error)
            return
        last = self.running[1]
        self._swaps += 1
        self.running = (drafter, version)
        self._resident = {name: kept for name, kept in self._resident.items() if name in (version, last)}
        if version is not None:
            self._bad.pop(version, None)
        self._note(resolution)
        self.ready.set()
        logger.info("drafting with %s (%s)", version or "no drafter", resolution.rung)

    def _usable(self, version: str) -> bool:
        if version in self._resident:
            return True
        _, since = self._bad.get(version, ("", float("-inf")))
        if time.monotonic() - since < RETRY_BAD_S:
            return False
        try:
            local = self._cache_dir / version
            self._registry.fetch(version, local)
            self._resident[version] = self._load(local)
        except (ArtifactError, StoreError, ConfigError) as error:
            self._refuse(version, error)
            return False
        return True

    def _refuse(self, version: str, error: Exception) -> None:
        logger.error(
            "drafter %s can't be used, %s keeps serving: %s", version, self.running[1] or "none", error
        )
        self._resident.pop(version, None)
        self._bad[version] = (str(error), time.monotonic())

    def _note(self, resolution: Resolution) -> None:
        if resolution.alarm and (self._resolution is None or not self._resolution.alarm):
            logger.error("serving %s, not what was decided: %s", resolution.version, self._state.champion)
        self._resolution = resolution

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.refresh()
            except Exception:
                logger.exception("following the journal failed; serving goes on")
            self._wait(self._interval_s * random.uniform(0.75, 1.25))
