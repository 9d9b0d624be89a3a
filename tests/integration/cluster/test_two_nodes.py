"""Two nodes: what is promoted reaches both, and a node that dies takes no answer with it."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

import pytest

from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

SETTINGS = {"LEARNER__MODE": "off"}


def swaps(site: Any, version: str) -> list[float]:
    """When replicas began to draft with a version, in seconds since 1970."""
    lines = (site.shared / "service.log").read_text().splitlines()
    said = [re.match(rf"(\S+) .*replica: drafting with {version} ", line) for line in lines]
    return [datetime.fromisoformat(match[1]).timestamp() for match in said if match]


def test_a_promotion_reaches_both_nodes_within_two_seconds(site: Any) -> None:
    fingerprint = site.get("/target")["fingerprint"]
    registry = DrafterRegistry(ArtifactStore(site.artifacts), fingerprint)
    version = registry.publish(DRAFTERS_DIR / "narrow", Provenance(), name="narrow")
    site.until(lambda: site.replicas().keys() == {"node-1", "node-2"}, "one on each node", 30)
    decided_s = site.decide(f"/drafters/{version}/promote")["at_ms"] / 1000
    site.until(lambda: len(swaps(site, version)) == 2, "both draft with it", 20)
    assert max(swaps(site, version)) - decided_s < 2
    site.until(
        lambda: {replica["drafter_version"] for replica in site.replicas(1).values()} == {version},
        "and say so",
    )


def test_streams_of_a_killed_node_go_on_and_its_capacity_comes_back_with_it(site: Any) -> None:
    undisturbed = [stream.outcome for stream in site.streams(range(8))]
    streams = site.streams(range(8))
    site.until(lambda: all(len(stream.tokens) > 20 for stream in streams), "all are under way")
    running = {name: replica["running"] for name, replica in site.replicas().items()}
    site.nodes[1].power_off()
    left = time.monotonic()
    assert [stream.outcome for stream in streams] == undisturbed
    assert min(len(stream.tokens) for stream in streams) == 400
    ended_s = time.monotonic() - left
    assert "goes on elsewhere" in (site.shared / "service.log").read_text(), running
    assert site.complete(1)["usage"]["completion_tokens"] == 8
    site.until(lambda: ("replica_silent", "node-2") in site.alarms(), "somebody is missed", 40)

    site.nodes[1].start()
    back_s = site.until(site.sees_both, "the replica of the node is back", 120)
    print(f"streams ended {ended_s:.1f} s after the node; its replica was back in {back_s:.1f} s")
    again = site.streams(range(8))
    site.until(
        lambda: min((replica["running"] for replica in site.replicas().values()), default=0) > 0, "both work"
    )
    assert [stream.outcome for stream in again] == undisturbed
    site.until(lambda: ("replica_silent", "node-2") not in site.alarms(), "nobody is missed")
