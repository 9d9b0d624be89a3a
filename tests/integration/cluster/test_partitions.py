"""A node is cut off from Redis, or from the artifact store: it serves on, alarms say so, it comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from online_draft.models.embedded import DRAFTERS_DIR
from online_draft.registry.artifacts import DrafterRegistry
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

SETTINGS = {"LEARNER__MODE": "off", "CONTROL__STALE_AFTER_S": "5"}


def promote(site: Any, name: str) -> str:
    """Publish and promote a drafter; its version."""
    fingerprint = site.get("/target")["fingerprint"]
    registry = DrafterRegistry(ArtifactStore(site.artifacts), fingerprint)
    version = registry.publish(DRAFTERS_DIR / name, Provenance(), name=name)
    site.decide(f"/drafters/{version}/promote")
    return version


def versions(site: Any) -> dict[str, str]:
    return {name: replica["drafter_version"] for name, replica in site.replicas().items()}


@contextmanager
def serving(site: Any) -> Iterator[None]:
    """Streams through both nodes begin before what is done within and end after it, as if it weren't."""
    undisturbed = [stream.outcome for stream in site.streams(range(8))]
    before = [*site.streams(range(4), 0), *site.streams(range(4, 8), 1)]
    site.until(lambda: all(len(stream.tokens) > 5 for stream in before), "all are under way")
    yield
    assert [stream.outcome for stream in before] == undisturbed
    for node in (0, 1):
        assert [stream.outcome for stream in site.streams(range(8), node)] == undisturbed


def test_a_node_without_redis(site: Any) -> None:
    node = site.nodes[1]
    with serving(site):
        site.redis.cut(node.address)
    # Where control is cut off, too, that is all that is known.
    missed = {("replica_silent", "node-2"), ("control_silent", "contro")}
    site.until(lambda: missed & site.alarms(), "it is missed", 60)
    version = promote(site, "narrow")
    site.until(lambda: versions(site) == {"node-1": version}, "the other one drafts with it", 10)
    site.until(
        lambda: (site.shared / "service.log").read_text().count(f"drafting with {version} ") == 2,
        "so does this one, by polling",
        15,
    )
    assert site.complete(3, node=1)["usage"]["completion_tokens"] == 8

    site.redis.heal(node.address)
    site.until(lambda: versions(site) == {"node-1": version, "node-2": version}, "it is heard again", 30)
    site.until(lambda: not missed & site.alarms(), "nothing is missed", 30)

    def balanced() -> bool:
        books = site.get("/buffer")["writers"]
        return bool(books["balanced"] and books["spooled"] == 0 and books["produced"] == books["stored"])

    site.until(balanced, "every record arrived", 60)


def test_a_node_without_the_artifact_store(site: Any) -> None:
    node = site.nodes[1]
    with serving(site):
        node.lose_state()
    site.until(lambda: ("journal_unreadable", "node-2") in site.alarms(), "it says so", 30)
    before = versions(site)["node-2"]
    version = promote(site, "medusa")
    ladder = site.get("/status")["ladder"]
    site.until(lambda: versions(site) == {"node-1": version, "node-2": before}, "only one can follow", 20)
    if ("nothing_decided", "contro") not in site.alarms():  # control is on the other node
        site.until(lambda: ("stale_version", "node-2") in site.alarms(), "that is said, too", 30)
    assert site.complete(3, node=1)["usage"]["completion_tokens"] == 8

    node.find_state()
    site.until(lambda: versions(site) == {"node-1": version, "node-2": version}, "it follows", 30)
    site.until(lambda: not {about for _, about in site.alarms()} & {"node-2"}, "nothing is wrong with it", 30)
    assert site.get("/status")["ladder"] == ladder and ladder["champion"] == version, "decided once"
