"""The measurement of `bench scale`: simulated replicas against a real redis-server and a store directory."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import redis
from rich.console import Console

from online_draft.bench.machine import machine_facts
from online_draft.bench.scale import readers
from online_draft.bench.scale.counted_store import CountedStore, Tally
from online_draft.bench.scale.fleet import Fleet
from online_draft.bench.scale.limits import as_table, fan_out, limits_of
from online_draft.bench.scale.options import ScaleOptions
from online_draft.bench.scale.redis_costs import Reading, costs
from online_draft.bench.scale.replica import SimulatedReplica
from online_draft.bench.stats import percentile
from online_draft.launch.ports import free_port
from online_draft.redis_server import PrivateRedis
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.journal import Decision, DecisionJournal
from online_draft.registry.ladder import Choice, decide_with_retry
from online_draft.registry.manifest import Provenance
from online_draft.registry.wakeups import publish_wakeup
from online_draft.store import ArtifactStore, RedisKeys, connect_redis

TARGET = "llama-0000000000000000-00000000"
KEYS, CROWD = RedisKeys("od"), RedisKeys("crowd")
SWAP_WAIT_S = 60.0


def measure(options: ScaleOptions, console: Console) -> dict[str, Any]:
    """The JSON. Starts a redis-server of its own on loopback and a store in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="od-scale-") as directory:
        root = Path(directory)
        with PrivateRedis(root / "redis", free_port(), "4gb") as server:
            client = connect_redis(server.url, 30.0)
            try:
                return _measure(options, console, root, server.url, client)
            finally:
                client.close()


def _measure(
    options: ScaleOptions, console: Console, root: Path, url: str, client: redis.Redis
) -> dict[str, Any]:
    tally = Tally()
    store = CountedStore(root / "store", tally)
    alone = _connected(client)
    publisher = Publisher(ArtifactStore(root / "store"), root / "made", options, client)
    for _ in range(2):  # the second is watched: two versions draft
        publisher.promote()
    fleet = Fleet(
        [
            SimulatedReplica(number, options, store, TARGET, url, KEYS, root / "cache")
            for number in range(options.replicas)
        ]
    )
    with fleet:
        fleet.wait_for(publisher.version, SWAP_WAIT_S)
        fleet.rest(1.5)
        console.print(f"{options.replicas} replicas follow; {options.seconds:.0f} s without requests")
        before = Reading.of(client)
        tally.clear()
        fleet.rest(options.seconds)
        idle = _stretch(before, Reading.of(client), tally, options)
        connections = {
            "each": round((_connected(client) - alone) / options.replicas, 2),
            "most": int(str(client.config_get("maxclients")["maxclients"])),
            "bytes": _bytes_a_connection(client),
        }
        console.print(f"{options.seconds:.0f} s with {options.rate:g} requests a second each")
        began_s = int(time.time()) + 1
        before = Reading.of(client)
        tally.clear()
        requests = fleet.work(options.seconds, options.rate)
        busy = _stretch(before, Reading.of(client), tally, options)
        seconds = list(range(began_s, int(time.time())))
        busy["busy_calls"] = busy["redis"]["by_command"].get("publish", {"per_s": 0.0})["per_s"]
        console.print(f"{options.swaps} promotions")
        swap = _swaps(options, fleet, publisher, tally)
        status = cast(bytes, client.get(KEYS.status(fleet.replicas[0].id)))
        details = cast(bytes, client.get(KEYS.details(fleet.replicas[0].id)))
    report: dict[str, Any] = {
        "replicas": options.replicas,
        "seconds": options.seconds,
        "rate": options.rate,
        "tokens": options.tokens,
        "segments": options.segments,
        "version_kb": options.version_kb,
        "spread_s": options.spread,
        **machine_facts("cpu"),
        "redis_version": str(client.info("server")["redis_version"]),
        "requests": requests,
        "idle": idle,
        "busy": busy,
        "swap": swap,
        "connections": connections,
        "details_bytes": len(details),
        "rollups": readers.rollup_costs(client, KEYS, seconds),
        "hashes": readers.hash_costs(client, KEYS, options.replicas),
        "intake": readers.intake_costs(url, KEYS, TARGET),
        "crowd": readers.crowd_costs(client, CROWD, status, options.size),
        "bell": readers.bell_costs(client, CROWD.busy),
        "listing": readers.listing_costs(root / "store"),
    }
    limits = limits_of(report, options)
    sizes = (options.replicas, options.size)
    report["assumed"] = {
        "redis_mb": options.redis_mb,
        "store_ops": options.store_ops,
        "store_mb_s": options.store_mb_s,
    }
    report["limits"] = as_table(limits, sizes)
    report["first_limit"] = {"what": limits[0].what, "at": limits[0].at}
    report["fan_out"] = fan_out(report, options, sizes)
    return report


class Publisher:
    """Publishes versions and promotes them, as learner and control do together."""

    def __init__(self, store: ArtifactStore, made: Path, options: ScaleOptions, client: redis.Redis) -> None:
        self._registry, self._journal = DrafterRegistry(store, TARGET), DecisionJournal(store, TARGET)
        self._made = made
        self._bytes = 1024 * options.version_kb
        self._client = client
        self._number = 0
        self.version = ""

    def promote(self) -> float:
        """Another version becomes champion; when (`time.perf_counter`) that was decided."""
        self._number += 1
        directory = self._made / str(self._number)
        directory.mkdir(parents=True)
        weights = random.Random(self._number).randbytes(self._bytes)
        manifest = {"target": TARGET, "kind": "amphista", "sha256": hashlib.sha256(weights).hexdigest()}
        (directory / "manifest.json").write_text(json.dumps(manifest))
        (directory / "model.safetensors").write_bytes(weights)
        self.version = self._registry.publish(directory, Provenance())
        decided: list[float] = []

        def notify(decision: Decision) -> None:
            decided.append(time.perf_counter())
            publish_wakeup(self._client, KEYS, decision)

        choice = Choice("promote", self.version, actor="admin", numbers={"control_share": 0.1})
        decide_with_retry(self._journal, lambda _: choice, notify=notify)
        return decided[0]


def _swaps(options: ScaleOptions, fleet: Fleet, publisher: Publisher, tally: Tally) -> dict[str, Any]:
    """How soon replicas have a promoted version, and what they ask of the store for it."""
    after: list[float] = []
    missed = peak = 0
    calls = read = 0.0
    for _ in range(options.swaps):
        time.sleep(1.0)
        tally.clear()
        decided = publisher.promote()
        installed = fleet.wait_for(publisher.version, SWAP_WAIT_S)
        after += [at - decided for at in installed]
        missed += options.replicas - len(installed)
        peak = max(peak, tally.peak)
        calls += tally.calls["exists"] + tally.calls["read"]
        read += tally.bytes
    share = options.swaps * options.replicas
    return {
        "swaps": options.swaps,
        "missed": missed,
        "after_s": {f"p{percent}": _rounded(percentile(after, percent)) for percent in (50, 95, 100)},
        "calls_a_replica": round(calls / share, 1),
        "kb_a_replica": round(read / share / 1024, 1),
        "peak_calls": peak,
    }


def _stretch(before: Reading, after: Reading, tally: Tally, options: ScaleOptions) -> dict[str, Any]:
    """What a replica took in a second, of Redis and of the store."""
    share = options.replicas * (after.at_s - before.at_s)
    return {
        "redis": costs(before, after, options.replicas),
        "redis_core": round((after.cpu_s - before.cpu_s) / (after.at_s - before.at_s), 4),
        "store": {
            "calls": round(sum(tally.calls.values()) / share, 2),
            "by_call": {kind: round(count / share, 2) for kind, count in tally.calls.items()},
            "us": {kind: round(1e6 * tally.seconds[kind] / tally.calls[kind], 1) for kind in tally.calls},
            "bytes": round(tally.bytes / share),
        },
        "load_average": round(os.getloadavg()[0], 2),
    }


def _connected(client: redis.Redis) -> int:
    return int(client.info("clients")["connected_clients"])


def _bytes_a_connection(client: redis.Redis) -> int:
    info: dict[str, Any] = client.info("memory")
    return round(int(info["mem_clients_normal"]) / _connected(client))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
