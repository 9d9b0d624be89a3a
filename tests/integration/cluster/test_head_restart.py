"""The head dies and comes back, with what its own Redis kept for it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from online_draft.store import RedisKeys, connect_redis

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]


def test_the_head_dies_under_load_and_comes_back(site: Any, guarded_redis: Any) -> None:
    head = site.nodes[0]
    site.until(lambda: all(actors(site).values()), "learner and control say something", 120)
    undisturbed = [stream.outcome for stream in site.streams(range(8), 1)]
    ladder = site.get("/status", 1)["ladder"]
    streams = site.streams(range(8), 1)
    site.until(lambda: all(len(stream.tokens) > 20 for stream in streams), "all are under way")
    head.power_off()
    assert [stream.outcome for stream in streams] == undisturbed
    assert [stream.outcome for stream in site.streams(range(8), 1)] == undisturbed, "begun without a head"

    forget(guarded_redis)  # what learner and control had said of themselves
    began = time.monotonic()
    head.start()
    while time.monotonic() - began < 20:  # while Ray finds itself again
        assert site.complete(3, node=1)["usage"]["completion_tokens"] == 8
        time.sleep(0.2)
    site.until(lambda: all(actors(site).values()), "learner and control are back", 180)
    site.until(lambda: site.sees_both(1), "both replicas are back", 180)
    site.until(lambda: site.sees_both(0), "also for the head's own ingress", 60)
    print(f"all was back {time.monotonic() - began:.0f} s after the head's start")
    assert [stream.outcome for stream in site.streams(range(8))] == undisturbed

    now = site.get("/status", 1)["ladder"]
    assert {name: now[name] for name in ("champion", "baseline", "seq")} == {
        name: ladder[name] for name in ("champion", "baseline", "seq")
    }
    site.until(
        lambda: {r["drafter_version"] for r in site.replicas(1).values()} == {ladder["champion"]},
        "one champion",
    )
    assert len(list((site.artifacts / "registry").iterdir())) == 1
    assert [(entry["username"], entry["object"]) for entry in guarded_redis.denied()] == []


def actors(site: Any) -> dict[str, bool]:
    """Whether learner and control have said something lately, and that they are alive."""
    status = site.get("/status", 1)
    return {name: bool(status.get(name)) for name in ("learner", "control")}


def forget(redis: Any) -> None:
    client, keys = connect_redis(redis.url), RedisKeys()
    client.delete(keys.status("learner"), keys.status("control"))
    client.close()
