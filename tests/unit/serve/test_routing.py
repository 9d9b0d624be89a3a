"""Which replicas a call may go to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from online_draft.serve.fleet.members import MEMBERS
from online_draft.serve.fleet.routing import DirectedRouter

NAME = "app/of-this-test"


async def chosen(**keywords: Any) -> set[str]:
    """Of the replicas a, b and c, of which c is about to end."""
    candidates = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in "abc"]
    call = SimpleNamespace(kwargs=keywords, routing_context=SimpleNamespace(should_backoff=False))
    router: Any = SimpleNamespace(_name=NAME)
    (found,) = await DirectedRouter.choose_replicas(router, candidates, call)  # type: ignore[arg-type]
    return {replica.replica_id.unique_id for replica in found}


@pytest.fixture(autouse=True)
def _running() -> None:
    MEMBERS.set(NAME, {"a", "b"})


async def test_a_call_goes_to_any_that_runs_or_to_the_one_that_is_meant() -> None:
    assert await chosen() == {"a", "b"}
    assert await chosen(to="c") == {"c"}
    assert await chosen(to="gone") == {"a", "b"}


async def test_a_call_goes_elsewhere_while_there_is_an_elsewhere() -> None:
    assert await chosen(avoid=("a",)) == {"b"}
    assert await chosen(avoid=["a", "b"]) == {"a", "b"}
