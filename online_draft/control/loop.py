"""Control: takes candidates up the ladder and disappointments down, one by one. Knows no torch and no Ray."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import redis

from online_draft.control.alarms import Alarm, drift_alarm, node_alarms, version_alarms
from online_draft.control.comparison import Comparison, compare
from online_draft.control.config import ControlConfig, ControlPlace
from online_draft.control.keeper import LearnerKeeper
from online_draft.control.memory import Memory
from online_draft.control.replicas import Replicas, read_replicas
from online_draft.control.rules import Facts, choose
from online_draft.control.vitals import Vitals
from online_draft.control.webhooks.config import WebhookConfig
from online_draft.control.webhooks.herald import Herald
from online_draft.errors import ArtifactError, ConfigError, JournalError, StoreError
from online_draft.monitor.arms import read_arms
from online_draft.monitor.drift.watch import DriftWatch
from online_draft.registry.arms import Arms
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.ladder import LadderState, decide_with_retry, fold
from online_draft.registry.revision import code_version
from online_draft.registry.target_line import TargetLine
from online_draft.registry.wakeups import START, publish_wakeup, wait_for_wakeup
from online_draft.store import ArtifactStore, RedisKeys, connect_redis
from online_draft.store.packing import pack

logger = logging.getLogger(__name__)

NAME = "control"
STATUS_EVERY_S = 1.0


class ControlLoop:
    """Decides for one target. `run` or `tick` by one thread. Holds no state but what journal and Redis say,
    so that two of them, or one that was restarted, never decide twice: the journal lets one of them win."""

    def __init__(
        self,
        place: ControlPlace,
        config: ControlConfig,
        keeper: LearnerKeeper | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        webhooks: WebhookConfig | None = None,
    ) -> None:
        self._config = config
        self._keys: RedisKeys = place.keys
        self._client = connect_redis(place.redis_url)
        self._store = ArtifactStore(place.store)
        self._line = TargetLine(self._store, place.fingerprint)
        self._keeper = keeper
        self._now_ms = now_ms
        self._vitals = Vitals(self._client, self._keys, config)
        self._herald: Herald | None = None
        if webhooks is not None and (webhooks.url or webhooks.slack_url):
            self._herald = Herald(webhooks, Memory(self._client, self._keys, "webhooks"), now_ms)
        self._open(place.fingerprint)
        self._replicas = Replicas()
        self._trouble = self._redis_trouble = ""
        self._wake_after = START
        self._status_at = float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set; a decision's wake-up or the poll interval begins the next."""
        while not stop.is_set():
            try:
                self.tick()
            except Exception as error:
                logger.exception("control could not do its work")
                self._trouble = f"{type(error).__name__}: {error}"
            self._wait(stop)
        self.close()

    def close(self) -> None:
        """Give connections and threads back. Idempotent."""
        if self._herald is not None:
            self._herald.close()
        self._client.close()

    def _open(self, fingerprint: str) -> None:
        """Begin with this target's journal and traffic."""
        self._registry = DrafterRegistry(self._store, fingerprint)
        self._journal = DecisionJournal(self._store, fingerprint)
        self._drift = DriftWatch(self._client, self._keys, fingerprint, self._config.drift)
        self._decisions: list[Decision] = []
        self._state = LadderState()
        self._decided_ms = 0
        self._comparison: Comparison | None = None

    def tick(self) -> list[Decision]:
        """Look at journal, counts and learner once; the decisions made. A failing store is no error."""
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
            self._look(self._state, self._now_ms())  # alarms about replicas don't wait for the journal
        self._drift.tick(self._now_ms() / 1000)
        if self._keeper is not None:
            self._keeper.check()
        self._vitals.tick(self._now_ms())
        if self._herald is not None:
            self._herald.tell(self._registry.target, self.alarms(), self._decisions)
        self._publish()
        return made

    def status(self) -> dict[str, Any]:
        """Plain data."""
        state, arms = self._state, self._state.arms
        shown = None if self._comparison is None else self._comparison.as_numbers(self._config.worse_alpha)
        return {
            "target": self._registry.target,
            "champion": state.champion,
            "candidate": state.candidate,
            "canary": state.canary,
            "pinned": state.pinned,
            "arms": None if arms is None else {**asdict(arms), "live": shown},
            "replicas": {name: [view.version, view.second] for name, view in self._replicas.alive.items()},
            "drift": {drift.segment: drift.verdict for drift in self._drift.states},
            "alarms": [asdict(alarm) for alarm in self.alarms()],
            "journal_seq": state.seq,
            "trouble": self._trouble,
            "learner": self._keeper.status() if self._keeper is not None else None,
            "webhooks": self._herald.status() if self._herald is not None else None,
            "code_version": code_version(),
        }

    def alarms(self) -> list[Alarm]:
        """What somebody should look at, as of the last tick."""
        found = version_alarms(
            self._state, self._decided_ms, self._replicas.alive, self._now_ms(), self._config.stale_after_s
        )
        found += node_alarms(self._replicas)
        found += [drift_alarm(drift) for drift in self._drift.states if drift.alarm]
        if self._trouble:
            found.append(Alarm("nothing_decided", NAME, self._trouble))
        if self._redis_trouble:
            found.append(Alarm("counts_unreadable", NAME, self._redis_trouble))
        trouble = self._keeper.status()["trouble"] if self._keeper is not None else ""
        if trouble:
            found.append(Alarm("learner_trouble", "learner", trouble))
        return found + self._vitals.alarms

    def _refresh(self) -> None:
        target = self._line.current()
        if target != self._registry.target:
            logger.warning("the target is %s now, was %s", target, self._registry.target)
            self._open(target)
        for decision in self._journal.read(after=len(self._decisions)):
            before = (self._state.champion, self._state.arms)
            self._state = fold([decision], self._state)
            self._decisions.append(decision)
            if before != (self._state.champion, self._state.arms):
                self._decided_ms = decision.at_ms

    def _decide(self) -> Decision | None:
        state, facts = self._state, self._facts(self._state)
        return decide_with_retry(
            self._journal,
            # Who lost a race looks at everything again.
            lambda now: choose(state, facts, self._config) if now.seq == state.seq else None,
            notify=lambda decision: publish_wakeup(self._client, self._keys, decision),
        )

    def _facts(self, state: LadderState) -> Facts:
        now_ms = self._now_ms()
        self._look(state, now_ms)
        climbing = state.canary or state.candidate
        free = state.arms is None and state.pinned is None  # else it waits: its files are read later
        proposal = next((d for d in reversed(self._decisions) if _proposes(d, climbing)), None)
        return Facts(
            now_ms,
            ("", {}) if proposal is None else (proposal.reason, proposal.numbers),
            self._flaw(state.candidate) if state.candidate and free else "",
            self._comparison,
            "" if state.canary is None else self._unusable(state.canary),
        )

    def _look(self, state: LadderState, now_ms: int) -> None:
        """At replicas and, where two versions draft, at their counts."""
        try:
            self._replicas = read_replicas(self._client, self._keys, now_ms)
            self._comparison = None if state.arms is None else self._compare(state, state.arms)
            self._redis_trouble = ""
        except StoreError as error:
            self._replicas, self._comparison = Replicas(), None
            self._redis_trouble = str(error)

    def _compare(self, state: LadderState, arms: Arms) -> Comparison:
        """A canary against the champion, or the watched champion against its forerunner. Segments with an
        adapter don't count: only the champion's sequences draft with it."""
        counts = read_arms(self._client, self._keys, arms.name)
        first, second = (
            {segment: found for segment, found in arm.items() if segment not in state.adapters}
            for arm in (counts.get(state.champion or "", {}), counts.get(arms.second, {}))
        )
        return compare(second, first) if arms.role == "canary" else compare(first, second)

    def _flaw(self, version: str) -> str:
        """Why the files of a version can't be used; "" if they can. StoreError when nobody knows."""
        try:
            self._registry.verify(version)
        except ArtifactError as error:
            return str(error)
        return ""

    def _unusable(self, version: str) -> str:
        """Why some replica can't draft with a version."""
        for name, view in self._replicas.alive.items():
            if version in view.unusable:
                return f"{name} can't draft with it: {view.unusable[version]}"
        return ""

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


def _proposes(decision: Decision, version: str | None) -> bool:
    return decision.kind == "propose" and decision.version == version
