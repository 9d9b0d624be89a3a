"""What an operator sees and decides: registry, journal, counts and the actors' cached statuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import redis

from online_draft.buffer.books import read_books, total
from online_draft.errors import ArtifactError, StoreError
from online_draft.monitor.counts import read_counts
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal, DecisionKind
from online_draft.registry.ladder import LadderState, decide, fold
from online_draft.registry.target_line import TargetLine
from online_draft.registry.wakeups import publish_wakeup
from online_draft.store import ArtifactStore, RedisKeys, connect_redis, redis_errors
from online_draft.store.packing import unpack

ROLES = ("champion", "previous", "baseline", "candidate", "canary", "pinned")


class AdminDesk:
    """Every method blocks on the artifact store or Redis; call from a thread. Holds no state of its own."""

    def __init__(
        self,
        store: str,
        fingerprint: str,
        redis_url: str | None,
        keys: RedisKeys,
        model: str = "",
        others: Sequence[AdminDesk] = (),
    ) -> None:
        """Without a `redis_url` (offline) there are no counts, no statuses and no wake-ups. `model` is the
        name of the target in the service; `others` are the desks of its further models. `fingerprint` is the
        configured target's; after updates of it everything is about the last one."""
        self.model = model
        self.others = tuple(others)
        self._files = ArtifactStore(store)
        self.line = TargetLine(self._files, fingerprint)
        self._books = _Books(self._files, fingerprint)
        self._keys = keys
        self._redis = connect_redis(redis_url) if redis_url is not None else None

    @property
    def registry(self) -> DrafterRegistry:
        """Versions for the target as it is now. JournalError or StoreError when nobody knows which."""
        return self._current().registry

    @property
    def journal(self) -> DecisionJournal:
        """Decisions about its drafters. Errors as `registry`."""
        return self._current().journal

    def target(self) -> dict[str, Any]:
        """The target as decided, the one it began with, all updates, and whether its champion is unproven."""
        state, registry = self.state(), self.registry
        champion = state.champion
        shown = {} if champion is None else self._describe(champion, state)
        return {
            "fingerprint": registry.target,
            "origin": self.line.origin,
            "champion": champion,
            "unproven": bool(shown.get("unproven")),
            "updates": [asdict(update) for update in self.line.updates()],
        }

    def state(self) -> LadderState:
        """The fold of the journal. JournalError or StoreError when it can't be read."""
        return fold(self.journal.read())

    def decide(
        self,
        kind: DecisionKind,
        version: str | None,
        actor: str,
        reason: str,
        expected_seq: int | None = None,
        numbers: Mapping[str, Any] | None = None,
    ) -> Decision:
        """Decide on the state as of now, or on the one the caller saw. Errors as `registry.ladder.decide`."""
        seq = self.state().seq if expected_seq is None else expected_seq
        known = self.registry.list_versions() if kind in ("propose", "promote") else None
        return decide(
            self.journal,
            seq,
            kind,
            version,
            actor=actor,
            reason=reason,
            numbers=numbers,
            known=known,
            notify=self._notify,
        )

    def drafters(self) -> list[dict[str, Any]]:
        """All published versions with their roles and provenance."""
        state = self.state()
        return [self._describe(version, state) for version in self.registry.list_versions()]

    def drafter(self, version: str) -> dict[str, Any]:
        """One version with the decisions about it. ArtifactError when there is no such version."""
        self.registry.manifest(version)
        decisions = [asdict(decision) for decision in self.journal.read() if decision.version == version]
        return {**self._describe(version, self.state()), "decisions": decisions}

    def overview(self) -> dict[str, Any]:
        """Ladder, last decisions, counts, books, alarms. Redis away: noted, not fatal."""
        decisions = self.journal.read()
        overview: dict[str, Any] = {
            "ladder": asdict(fold(decisions)),
            "decisions": [asdict(decision) for decision in decisions[-20:]],
        }
        if self._redis is None:
            return overview
        try:
            counts = read_counts(self._redis, self._keys)
            overview["counts"] = {
                segment: {version: asdict(cell) for version, cell in versions.items()}
                for segment, versions in counts.items()
            }
            overview["records"] = asdict(total(read_books(self._redis, self._keys)))
            overview["learner"] = self.actor_status("learner")
            overview["control"] = self.actor_status("control")
            overview["alarms"] = alarms_of(overview["control"])
        except StoreError as error:
            overview["redis_error"] = str(error)
        return overview

    def actor_status(self, name: str) -> Any:
        """What an actor last said of itself, None when it was long silent. StoreError without Redis."""
        if self._redis is None:
            raise StoreError("redis is not used offline")
        with redis_errors("read status"):
            raw = cast("bytes | None", self._redis.get(self._keys.status(name)))
        return None if raw is None else unpack(raw, f"status of {name}")

    def redis_client(self) -> tuple[redis.Redis, RedisKeys]:
        """Client and names of what is counted. StoreError offline."""
        if self._redis is None:
            raise StoreError("redis is not used offline")
        return self._redis, self._keys

    def _current(self) -> _Books:
        """Registry and journal of the target as it was decided last."""
        fingerprint = self.line.current()
        if fingerprint != self._books.registry.target:
            self._books = _Books(self._files, fingerprint)
        return self._books

    def _notify(self, decision: Decision) -> None:
        if self._redis is not None:
            publish_wakeup(self._redis, self._keys, decision)

    def _describe(self, version: str, state: LadderState) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "version": version,
            "roles": [role for role in ROLES if getattr(state, role) == version],
            "share": share_of(version, state),
        }
        try:
            manifest = self.registry.manifest(version)
        except ArtifactError as error:
            return {**shown, "error": str(error)}
        return {
            **shown,
            "kind": manifest.kind,
            "bytes": manifest.total_bytes,
            "provenance": asdict(manifest.provenance),
            "unproven": manifest.provenance.carried_over_from is not None,
        }


class _Books:
    """What is known about the drafters of one target."""

    def __init__(self, files: ArtifactStore, fingerprint: str) -> None:
        self.registry = DrafterRegistry(files, fingerprint)
        self.journal = DecisionJournal(files, fingerprint)


def share_of(version: str, state: LadderState) -> float:
    """The part of all sequences that a version was decided to draft for."""
    arms = state.arms
    if arms is not None and version == arms.second:
        return arms.share
    if version != state.champion:
        return 0.0
    return 1.0 if arms is None else 1.0 - arms.share


def alarms_of(control: Any) -> list[dict[str, Any]]:
    """Control's alarms; one if it is silent."""
    if control is None:
        silent = {"code": "control_silent", "about": "control", "message": "says nothing", "since_ms": 0}
        return [silent]
    alarms: list[dict[str, Any]] = control.get("alarms", [])
    return alarms
