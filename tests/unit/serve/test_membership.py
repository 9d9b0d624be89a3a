"""Who may serve in a cluster."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from online_draft.registry.revision import code_version
from online_draft.serve.membership import NodeRefused, check_code, check_target, may_serve
from online_draft.store import ArtifactStore

CONFIG: dict[str, Any] = {
    "redis_url": "unix:///nowhere/redis.sock",
    "replica_redis_url": None,
    "redis_prefix": "test",
    "realm": "",
}


def test_the_same_code_may_serve_and_so_may_any_where_none_is_named() -> None:
    check_code(code_version())
    check_code("")
    with may_serve({**CONFIG, "code": code_version()}), may_serve(CONFIG):
        pass


def test_other_code_is_refused_with_both_versions_before_anything_else_happens() -> None:
    begun = []
    with pytest.raises(NodeRefused) as refused, may_serve({**CONFIG, "code": "0.0+old"}):
        begun.append(1)
    assert begun == []  # and a Redis that is away hides no reason
    for part in (socket.gethostname(), code_version(), "0.0+old", "ray.other_code"):
        assert part in str(refused.value)


def test_the_first_node_says_what_a_target_is(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    for _ in range(2):
        check_target(store, "session_1", "/models/a", "llama-1-1")
    with pytest.raises(NodeRefused, match=r"llama-2-2 as /models/a, other nodes have llama-1-1"):
        check_target(store, "session_1", "/models/a", "llama-2-2")
    check_target(store, "session_1", "/models/b", "llama-2-2")
    check_target(store, "session_2", "/models/a", "llama-2-2")


def test_what_fails_for_another_reason_is_no_refusal() -> None:
    with pytest.raises(ValueError, match="something else"), may_serve(CONFIG):
        raise ValueError("something else")
