"""Fetches the drafter versions that the journal decided on, checks them, swaps them in between two steps."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from online_draft.errors import ArtifactError, ConfigError, JournalError, StoreError
from online_draft.registry.arms import Arms
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import DecisionJournal
from online_draft.registry.ladder import LadderState, fold
from online_draft.registry.resolution import Resolution, resolve_champion
from online_draft.serve.lineup import Lineup

logger = logging.getLogger(__name__)

D = TypeVar("D")

RETRY_BAD_S = 30.0
"""How long a version that could not be used is left alone."""


class WeightWatcher(Generic[D]):
    """Follows the journal on its own thread: polling is the truth, `wait` may return early as a hint.

    `load` turns a fetched directory into a drafter, `install` puts a lineup into the engine between two
    steps: the champion, and beside it the canary, or the previous champion while the new one is watched. A
    champion that can't be fetched, loaded or installed leaves the running one in place and its reason in
    `status`; while nothing runs yet, previous, baseline and then no drafter are tried. Without a usable
    second version the champion drafts alone. Previous stays loaded, so that going back needs no file. An
    unreachable journal changes nothing.
    """

    def __init__(
        self,
        journal: DecisionJournal,
        registry: DrafterRegistry,
        cache_dir: Path,
        load: Callable[[Path], D],
        install: Callable[[Lineup[D]], None],
        wait: Callable[[float], object] | None = None,
        interval_s: float = 1.0,
        then: Callable[[LadderState, str | None], None] = lambda state, running: None,
        fetch_spread_s: float = 0.0,
    ) -> None:
        """`then` is called after every look, with what was decided and the version that runs. While one runs,
        others are fetched after a random part of `fetch_spread_s`, so that not all replicas ask at once."""
        self._journal = journal
        self._registry = registry
        self._cache_dir = cache_dir
        self._load = load
        self._install = install
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._then = then
        self._fetch_spread_s = fetch_spread_s
        self._state = LadderState()
        self._resolution: Resolution | None = None
        self._resident: dict[str, D] = {}
        self._bad: dict[str, tuple[str, float]] = {}
        self._journal_error: str | None = None
        self._swaps = 0
        self._started_ms = time.time_ns() // 1_000_000
        self.running: Lineup[D] = Lineup()
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

    @property
    def speculation_off(self) -> bool:
        """Whether it was decided that nothing is drafted."""
        return self._state.speculation_off

    def status(self) -> dict[str, Any]:
        """What runs, what was decided, and why they differ if they do."""
        resolution = self._resolution
        return {
            "ready": self.ready.is_set(),
            "drafter_version": self.running.version,
            "second_version": self.running.second_version,
            "second_share": self.running.share,
            "decided_version": self._state.champion,
            "started_at_ms": self._started_ms,
            "rung": resolution.rung if resolution else None,
            "alarm": resolution.alarm if resolution else False,
            "journal_seq": self._state.seq,
            "journal_error": self._journal_error,
            "speculation_off": self._state.speculation_off,
            "unusable": {version: reason for version, (reason, _) in list(self._bad.items())},
            "swaps": self._swaps,
        }

    def refresh(self) -> None:
        """Read the journal once and do what it says. Never raises for a bad artifact or journal."""
        self.resolve()
        self._then(self._state, self.running.version)

    def resolve(self) -> None:
        """`refresh` without what is called after it."""
        try:
            self._state = fold(self._journal.read(after=self._state.seq), self._state)
        except (StoreError, JournalError) as error:
            if self._journal_error is None:
                logger.warning("the journal can't be read, serving goes on: %s", error)
            self._journal_error = str(error)
            return
        self._journal_error = None
        resolution = self._champion()
        second = self._second() if resolution.rung == "champion" else None
        lineup = self._lineup(resolution.version, second)
        if lineup.same_as(self.running) and self.ready.is_set():
            self._note(resolution)
        else:
            self._swap(lineup, resolution)

    def _champion(self) -> Resolution:
        """Who shall draft: the champion, else what runs, else what can be read."""
        running = self.running.version
        if self._state.champion == running and self.ready.is_set():
            return Resolution(running, "champion", alarm=False)
        resolution = resolve_champion(self._state, self._usable)
        if resolution.rung != "champion" and running is not None:
            return Resolution(running, resolution.rung, alarm=True)
        return resolution

    def _second(self) -> Arms | None:
        """The arms that were decided, if their second version can be used."""
        arms = self._state.arms
        return arms if arms is not None and self._usable(arms.second) else None

    def _lineup(self, version: str | None, arms: Arms | None) -> Lineup[D]:
        drafter = self._resident[version] if version is not None else None
        if arms is None:
            return Lineup(drafter, version)
        return Lineup(drafter, version, self._resident[arms.second], arms.second, arms.share, arms.name)

    def _swap(self, lineup: Lineup[D], resolution: Resolution) -> None:
        try:
            self._install(lineup)
        except ConfigError as error:
            if lineup.second_version is not None:
                self._refuse(lineup.second_version, error)
                self._swap(self._lineup(lineup.version, None), resolution)
                return
            assert lineup.version is not None
            self._refuse(lineup.version, error)
            return
        self._swaps += 1
        self.running = lineup
        wanted = (lineup.version, lineup.second_version, self._state.previous)
        self._resident = {name: kept for name, kept in self._resident.items() if name in wanted}
        for version in (lineup.version, lineup.second_version):
            self._bad.pop(version or "", None)
        self._note(resolution)
        self.ready.set()
        beside = f", beside it {lineup.second_version}" if lineup.second_version is not None else ""
        logger.info("drafting with %s (%s)%s", lineup.version or "no drafter", resolution.rung, beside)

    def _usable(self, version: str) -> bool:
        if version in self._resident:
            return True
        _, since = self._bad.get(version, ("", float("-inf")))
        if time.monotonic() - since < RETRY_BAD_S:
            return False
        try:
            local = self._cache_dir / version
            if self.ready.is_set() and not local.exists():
                self._stop.wait(random.uniform(0, self._fetch_spread_s))
            self._registry.fetch(version, local)
            self._resident[version] = self._load(local)
        except (ArtifactError, StoreError, ConfigError) as error:
            self._refuse(version, error)
            return False
        return True

    def _refuse(self, version: str, error: Exception) -> None:
        logger.error(
            "drafter %s can't be used, %s keeps serving: %s", version, self.running.version or "none", error
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
