from __future__ import annotations

from pathlib import Path

import pytest

from online_draft.buffer.erasures import MARGIN_MS, ErasureLog
from online_draft.errors import StoreError
from online_draft.store import ArtifactStore


def test_requests_are_numbered_and_read_in_order(tmp_path: Path) -> None:
    log = ErasureLog(ArtifactStore(tmp_path))
    assert (log.last(), log.read()) == (0, [])
    made = [log.request(tenant, 1000 + place) for place, tenant in enumerate(("a", "b/ü", "a"))]
    assert [request.number for request in made] == [1, 2, 3]
    again = ErasureLog(ArtifactStore(tmp_path))
    assert again.read() == made and again.read(after=2) == made[2:] and again.last() == 3
    assert made[0].until_ms == 1000 + MARGIN_MS


def test_two_writers_lose_no_request(tmp_path: Path) -> None:
    one, other = ErasureLog(ArtifactStore(tmp_path)), ErasureLog(ArtifactStore(tmp_path))
    one.last = lambda: 0  # type: ignore[method-assign]  # it looked before the other wrote
    assert other.request("a").number == 1
    assert one.request("b").number == 2
    assert [request.tenant for request in other.read()] == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema": 9, "tenant": "a", "requested_at_ms": 1}'])
def test_a_damaged_request_is_not_passed_over(tmp_path: Path, content: bytes) -> None:
    store = ArtifactStore(tmp_path)
    store.write_bytes("erasures/00000001.json", content)
    with pytest.raises(StoreError, match="00000001"):
        ErasureLog(store).read()
