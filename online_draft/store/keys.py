"""Every Redis key, stream, group, length and TTL in one place.

Redis carries wake-ups, records, counts and caches; nothing in it is a decision, all of it may vanish.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """Names under one `prefix`, so that several systems can share a server. A `realm` keeps what belongs to
    one model of a system apart from the others'; limits, streams and ingresses are of all.

    key            type    holds
    records        stream  one entry per served interaction: fields `w` writer, `s` sequence, `d` record (of
                           one that was erased `e`, the id it had, instead of `d`)
    decisions      stream  wake-ups: field `seq`, number of a fresh journal entry (a hint only)
    load           hash    replica id -> packed load, fresh for `load_fresh_ms`
    busy           channel a replica's id whenever it says that it is busy (a hint only)
    books          hash    writer id -> packed books of a record writer
    counts         hash    packed (source, segment, version) -> packed speculation counts
    arms(name)     hash    packed (source, version, segment) -> packed counts of one canary or watch, expires
    rollup(s, t)   hash    packed (replica, instance) -> packed counts of the `s` seconds from `t`; expires
    rollup_epoch   string  random; another one says that the roll-ups were lost
    drift_samples(target, segment)  stream  one entry per replayed record: field `d` sample; expires
    drift_segments(target)          zset    segments with samples by their last one's time (s); expires
    drift_states(target)            string  what control makes of the samples, expires after `drift_ttl_s`
    learner_history(seconds)        stream  readings of the learner, one in so many seconds: field `d`
    control_memory(name)   string  what a part of control knows after a restart
    details(name)  string  what a replica tells of its recent requests and its policy; expires as statuses do
    status(name)   string  cache of an actor's status for the admin API, expires after `status_ttl_s`
    refused        hash    host of a node that may not serve -> packed reason and time; expires after
                           `refused_ttl_s`
    limit(name)    string  when a rate limit's bucket is full again (µs), expires then
    limit_epoch    string  random; another one says that the buckets were lost
    streams(key)   zset    leases of an API key's open streams by their end (µs)
    ingresses      zset    ingresses by when they no longer count (µs)
    """

    prefix: str = "od"
    realm: str = ""

    learner_group: str = "learner"
    decisions_maxlen: int = 256
    load_fresh_ms: int = 2_000
    load_ttl_s: int = 60
    status_ttl_s: int = 30
    refused_ttl_s: int = 300
    arms_ttl_s: int = 86_400
    drift_samples_maxlen: int = 2_048
    drift_samples_ttl_s: int = 7 * 86_400
    drift_ttl_s: int = 60

    @property
    def records(self) -> str:
        """Stream of served interactions."""
        return f"{self._own}:records"

    @property
    def decisions(self) -> str:
        """Stream of wake-ups after journal entries."""
        return f"{self._own}:decisions"

    @property
    def load(self) -> str:
        """Hash of the replicas' load."""
        return f"{self._own}:load"

    @property
    def busy(self) -> str:
        """Channel of replicas that are busy."""
        return f"{self._own}:busy"

    @property
    def books(self) -> str:
        """Hash of the record writers' books."""
        return f"{self._own}:books"

    @property
    def counts(self) -> str:
        """Hash of speculation counts."""
        return f"{self._own}:counts"

    def arms(self, name: str) -> str:
        """Hash of the counts of one canary or watch."""
        return f"{self._own}:arms:{name}"

    def rollup(self, seconds: int, start_s: int) -> str:
        """What all replicas counted in one bucket of a resolution."""
        return f"{self._own}:rollup:{seconds}:{start_s}"

    @property
    def rollup_epoch(self) -> str:
        """Which memory the roll-ups are of."""
        return f"{self._own}:rollup-epoch"

    def drift_samples(self, target: str, segment: str) -> str:
        """Stream of replayed records of a target's segment."""
        return f"{self._own}:drift:{target}:{segment}"

    def drift_segments(self, target: str) -> str:
        """Which segments of a target have drift samples."""
        return f"{self._own}:drift-segments:{target}"

    def drift_states(self, target: str) -> str:
        """Alarm and verdict of each segment of a target."""
        return f"{self._own}:drift-states:{target}"

    def learner_history(self, seconds: int) -> str:
        """Readings of the learner, one in so many seconds."""
        return f"{self._own}:learner-history:{seconds}"

    def control_memory(self, name: str) -> str:
        """What a part of control must not forget."""
        return f"{self._own}:control:{name}"

    def details(self, name: str) -> str:
        """What a replica tells of its recent requests and its policy."""
        return f"{self._own}:details:{name}"

    def status(self, name: str) -> str:
        """Cached status of one actor (`learner`, `control`, a replica id)."""
        return f"{self._own}:status:{name}"

    @property
    def refused(self) -> str:
        """Hash of nodes that were refused."""
        return f"{self._own}:refused"

    def limit(self, name: str) -> str:
        """One rate limit's bucket."""
        return f"{self.prefix}:limit:{name}"

    @property
    def limit_epoch(self) -> str:
        """Which memory the buckets are of."""
        return f"{self.prefix}:limit-epoch"

    def streams(self, key: str) -> str:
        """Leases of an API key's open streams."""
        return f"{self.prefix}:streams:{key}"

    @property
    def ingresses(self) -> str:
        """The ingresses that share the limits."""
        return f"{self.prefix}:ingresses"

    @property
    def _own(self) -> str:
        return f"{self.prefix}:realm:{self.realm}" if self.realm else self.prefix


def of_realm(name: str, realm: str) -> str:
    """The name of something that every realm has: an actor, a deployment."""
    return f"{name}-{realm}" if realm else name
