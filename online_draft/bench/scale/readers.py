"""What it costs to read what all replicas say, as learner, control and admin page do: CPU time of theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import redis

from online_draft.buffer.reader import RecordReader
from online_draft.buffer.records import encode
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.control.replicas import read_replicas
from online_draft.core import Interaction
from online_draft.monitor.counts import read_counts
from online_draft.monitor.load import Load, publish_load, read_loads
from online_draft.monitor.rollups.reader import read_rollup
from online_draft.store import ArtifactStore, RedisKeys

_REPEATS = 5
_JOURNAL = 10_000
"""Entries of the journal whose listing is timed."""


def milliseconds(call: Callable[[], object]) -> float:
    """CPU time of a call in this thread, the median of some: also right beside other work."""
    taken = []
    for _ in range(_REPEATS):
        begun = time.thread_time()
        call()
        taken.append(time.thread_time() - begun)
    return round(1000 * median(taken), 3)


def crowd_costs(client: redis.Redis, keys: RedisKeys, status: bytes, size: int) -> dict[str, Any]:
    """Milliseconds that the learner takes to look at every load, and control at every status, of `size`
    replicas. Writes under `keys`, which nobody else uses."""
    names = [f"node-{number:04d}-{4000 + number}" for number in range(size)]
    pipeline = client.pipeline(transaction=False)
    for name in names:
        publish_load(pipeline, keys, name, Load(0, 0, now_ms()))
        pipeline.set(keys.status(name), status)
    pipeline.execute()
    return {
        "replicas": size,
        "learner_look_ms": milliseconds(lambda: read_loads(client, keys, now_ms())),
        "control_look_ms": milliseconds(lambda: read_replicas(client, keys, now_ms())),
        "status_bytes": len(status),
    }


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def rollup_costs(client: redis.Redis, keys: RedisKeys, seconds: Sequence[int]) -> dict[str, Any]:
    """Redis' memory and a reader's time for one replica's part in a bucket, of the 1 s buckets of these
    seconds."""
    start, end = seconds[0], seconds[-1] + 1
    parts = memory = 0
    for second in seconds:
        key = keys.rollup(1, second)
        parts += client.hlen(key)
        memory += client.memory_usage(key) or 0
    taken = milliseconds(lambda: read_rollup(client, keys, start, end, 1))
    return {
        "parts": parts,
        "bytes_a_part": round(memory / max(1, parts), 1),
        "read_us_a_part": round(1000 * taken / max(1, parts), 2),
    }


def hash_costs(client: redis.Redis, keys: RedisKeys, replicas: int) -> dict[str, Any]:
    """What a replica leaves in the hashes that have no end: books and counts, which `/metrics` reads."""
    memory = sum(client.memory_usage(key) or 0 for key in (keys.books, keys.counts))
    return {
        "bytes_a_replica": round(memory / replicas),
        "metrics_ms": milliseconds(lambda: read_counts(client, keys)),
    }


def intake_costs(redis_url: str, keys: RedisKeys, target: str) -> dict[str, Any]:
    """Records that a learner takes into its reservoirs in a second of CPU time, of those in the stream."""
    reader, reservoirs = RecordReader(redis_url, keys, target), Reservoirs()
    taken, size, begun = 0, 0, time.thread_time()
    while found := reader.read(64):
        for _, interaction in found:
            reservoirs.add(interaction)
        taken += len(found)
        if size == 0:
            size = _length(found[0][1])
        reader.ack([entry for entry, _ in found])
    seconds = time.thread_time() - begun
    reader.close()
    return {"records": taken, "record_bytes": size, "per_s": round(taken / seconds)}


def listing_costs(root: Path) -> dict[str, Any]:
    """Milliseconds to list a short journal and one of 10,000 decisions, in a store at `root`."""
    store, folder = ArtifactStore(root), root / "listing"
    folder.mkdir()
    for number in range(_JOURNAL):
        if number == 10:
            short = milliseconds(lambda: store.list(folder.name))
        (folder / f"{number:08d}.json").touch()
    return {"decisions_10_ms": short, "decisions_10000_ms": milliseconds(lambda: store.list(folder.name))}


def bell_costs(client: redis.Redis, channel: str, messages: int = 2000) -> dict[str, Any]:
    """Microseconds for which a learner's listener is at each replica that says that it is busy."""
    with client.pubsub() as heard:  # type: ignore[no-untyped-call]
        heard.subscribe(channel)
        heard.get_message(timeout=1.0)
        pipeline = client.pipeline(transaction=False)
        for _ in range(messages):
            pipeline.publish(channel, "node-0000-4000")
        pipeline.execute()
        begun, left = time.thread_time(), messages
        while left and heard.get_message(timeout=1.0) is not None:
            left -= 1
        taken = time.thread_time() - begun
    return {"us_a_message": round(1e6 * taken / messages, 1)}


def _length(interaction: Interaction) -> int:
    return len(encode(interaction))
