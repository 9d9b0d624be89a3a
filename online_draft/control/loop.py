"""Control: promotes what passed the gate, one decision at a time. No torch and no Ray in here."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import redis

from online_draft.control.config import ControlConfig, ControlPlace
from online_draft.control.keeper import LearnerKeeper
from online_draft.errors import ArtifactError, ConfigError, JournalError, StoreError
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.ladder import Choice, LadderState, decide_with_retry, fold
from online_draft.registry.revision import code_version
from online_draft.registry.wakeups import START, publish_wakeup, wait_for_wakeup
from online_draft.store import ArtifactStore, RedisKeys, connect_redis
from online_draft.store.packing import pack

logger = logging.getLogger(__name__)

NAME = "control"
ACTOR = "control"
STATUS_EVERY_S = 1.0


class ControlLoop:
    """Decides for one target. `run` or `tick` by one thread. Holds no state but what the journal says, so
    that two of them, or one that was restarted, never decide twice: the journal lets one of them win."""

    def __init__(
        self, place: ControlPlace, config: ControlConfig, keeper: LearnerKeeper | None = None
    ) -> None:
        self._config = config
        self._keys: RedisKeys = place.keys
        self._client = connect_redis(place.redis_url)
        store = ArtifactStore(place.store)
        self._registry = DrafterRegistry(store, place.fingerprint)
        self._journal = DecisionJournal(store, place.fingerprint)
        self._keeper = keeper
        self._decisions: list[Decision] = []
        self._state = LadderState()
        self._trouble = ""
        self._wake_after = START
        self._status_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set; a decision's wake-up or the poll interval begins the next."""
        while not stop.is_set():
            self.tick()
            self._wait(stop)
        self._client.close()

    def tick(self) -> list[Decision]:
        """Look at the journal and the learner once; the decisions made. A failing store is no error."""
        made: list[Decision] = []
        try:
            self._refresh()
            while (decision := self._decide()) is not None:
                made.append(decision)
                self._refresh()
            if made:
                self._registry.prune(self._state.in_use, self._config.keep_versions)
            self._trouble = ""
        except (StoreError, JournalError, ConfigError) as error:
            if not self._trouble:
                logger.warning("nothing is decided now: %s", error)
            self._trouble = str(error)
        if self._keeper is not None:
            self._keeper.check()
        self._publish()
        return made

    def status(self) -> dict[str, Any]:
        """Plain data."""
        state = self._state
        return {
            "champion": state.champion,
            "candidate": state.candidate,
            "pinned": state.pinned,
            "journal_seq": state.seq,
            "trouble": self._trouble,
            "learner": self._keeper.status() if self._keeper is not None else None,
            "code_version": code_version(),
        }

    def _refresh(self) -> None:
        news = self._journal.read(after=len(self._decisions))
        self._state = fold(news, self._state)
        self._decisions += news

    def _decide(self) -> Decision | None:
        candidate = self._state.candidate
        if candidate is None or self._state.pinned:
            return None
        flaw = self._flaw(candidate)
        return decide_with_retry(
            self._journal,
            lambda state: self._choose(state, candidate, flaw),
            notify=lambda decision: publish_wakeup(self._client, self._keys, decision),
        )

    def _flaw(self, version: str) -> str:
        """Why the files of a version can't be used; "" if they can. StoreError when nobody knows."""
        try:
            self._registry.verify(version)
        except ArtifactError as error:
            return str(error)
        return ""

    def _choose(self, state: LadderState, candidate: str, flaw: str) -> Choice | None:
        """The rule: an intact candidate that beat the version now serving is promoted."""
        if state.candidate != candidate or state.pinned:
            return None
        if flaw:
            return Choice("refuse", candidate, ACTOR, flaw)
        proposal = next(
            entry
            for entry in reversed(self._decisions)
            if (entry.kind, entry.version) == ("propose", candidate)
        )
        parent = proposal.numbers.get("parent", state.champion)
        if parent != state.champion:
            reason = f"it was measured against {parent}, but {state.champion or 'no version'} serves"
            return Choice("refuse", candidate, ACTOR, reason)
        return Choice("promote", candidate, ACTOR, proposal.reason, proposal.numbers)

    def _wait(self, stop: threading.Event) -> None:
        try:
            wait_ms = int(self._config.poll_interval_s * 1000)
            self._wake_after = (
                wait_for_wakeup(self._client, self._keys, self._wake_after, wait_ms) or self._wake_after
            )
        except StoreError:
            self._wake_after = START
            stop.wait(self._config.poll_interval_s)

    def _publish(self) -> None:
        now = time.monotonic()
        if now < self._status_at + STATUS_EVERY_S:
            return
        self._status_at = now
        try:
            self._client.set(self._keys.status(NAME), pack(self.status()), ex=self._keys.status_ttl_s)
        except (redis.RedisError, OSError, StoreError) as error:
            logger.debug("control's status can't be published: %s", error)
