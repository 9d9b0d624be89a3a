"""Whether a node of a cluster may serve: with the code and the target of the other nodes, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import redis

from online_draft.errors import LaunchError, StoreError
from online_draft.registry.revision import code_version
from online_draft.store import ArtifactStore, RedisKeys, connect_redis
from online_draft.store.packing import pack

FOLDER = "clusters"
"""In the artifact store: `clusters/<Ray's session>/<digest of the target's name>` holds a fingerprint."""


class NodeRefused(LaunchError):
    """This node may not serve. The message names it and says why."""


@contextlib.contextmanager
def may_serve(raw_config: Mapping[str, Any]) -> Iterator[None]:
    """Around all that a process of the service begins with; `raw_config` as of a `ServiceConfig`.

    NodeRefused when this node's code isn't the service's, or when what is within says so; then word is left
    for control's alarms.
    """
    try:
        check_code(raw_config.get("code", ""))
        yield
    except NodeRefused as refusal:
        _tell(raw_config, refusal)
        raise


def check_code(expected: str) -> None:
    """NodeRefused when this node's code isn't the `expected` one; "" accepts any."""
    own = code_version()
    if expected not in ("", own):
        raise NodeRefused(
            f"{socket.gethostname()} has code {own}, the service was deployed with {expected}: give the node "
            "that code, or deploy the service again from the node's; ray.other_code lets both serve meanwhile"
        )


def check_target(store: ArtifactStore, cluster: str, target: str, fingerprint: str) -> None:
    """NodeRefused when other nodes of the cluster have another target by this name.

    The first one to come says which it is. StoreError.
    """
    path = f"{FOLDER}/{cluster}/{hashlib.sha256(target.encode()).hexdigest()[:16]}"
    if store.create_exclusive(path, fingerprint.encode()):
        return
    others = store.read_bytes(path).decode()
    if others != fingerprint:
        raise NodeRefused(
            f"{socket.gethostname()} has target {fingerprint} as {target}, other nodes have {others}: give "
            f"the node their files; to change that of all use `target update`, or another name than {target}"
        )


def _tell(raw_config: Mapping[str, Any], refusal: NodeRefused) -> None:
    keys = RedisKeys(raw_config["redis_prefix"], raw_config["realm"])
    client = connect_redis(raw_config["replica_redis_url"] or raw_config["redis_url"])
    with contextlib.suppress(redis.RedisError, OSError, StoreError):
        pipeline = client.pipeline(transaction=False)
        word = pack([str(refusal), time.time_ns() // 1_000_000])
        pipeline.hset(keys.refused, socket.gethostname(), word)
        pipeline.expire(keys.refused, keys.refused_ttl_s)
        pipeline.execute()
    client.close()
