"""`buffer stats` and `buffer erase`: what they print, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from online_draft.buffer.erasures import ErasureLog
from online_draft.buffer.reservoirs import Reservoirs
from online_draft.cli import app
from online_draft.learner.checkpoint import Checkpoint, CheckpointStore
from online_draft.store import ArtifactStore

runner = CliRunner()

STATS: dict[str, Any] = {
    "writers": {
        "produced": 12, "stored": 9, "spooled": 1, "dropped": 1, "erased": 1, "opted_out": 4,
        "bytes": 4000, "tokens": 1000, "balanced": True,
    },
    "stream": {"entries": 9, "lag": 0},
    "reader": {"delivered": 8, "gaps": 0, "lost_in_crash": 0},
    "reservoirs": {"training": 6, "held_out": 2, "segments": {"sql": {"recent": 6, "tenants": 1}}},
    "erasures": {"requested": 0, "settled": 0},
}  # fmt: skip


class FakeAdmin:
    def __init__(self, complete: bool = True) -> None:
        self.complete = complete

    def buffer(self) -> dict[str, Any]:
        return STATS

    def erase(self, tenant: str) -> dict[str, Any]:
        return {
            "request": 3, "tenant": tenant, "stream": {"scanned": 9, "erased": 2, "unreadable": 0},
            "replicas": {"r1": True, "r2": self.complete}, "learner": "settled", "complete": self.complete,
            "versions": ["v0003-01234567"],
        }  # fmt: skip


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> FakeAdmin:
    fake = FakeAdmin()
    monkeypatch.setattr("online_draft.cli.system.System.online", lambda _: fake)
    return fake


def test_stats_for_people_and_for_programs(admin: FakeAdmin) -> None:
    shown = runner.invoke(app, ["buffer", "stats"])
    assert shown.exit_code == 0
    assert "produced 12, stored 9, spooled 1, dropped 1, erased 1, opted out 4" in shown.output
    assert "4.00 bytes per token" in shown.output and "lost in crash 0" in shown.output
    assert json.loads(runner.invoke(app, ["buffer", "stats", "--json"]).output) == STATS


def test_erase_ends_with_1_while_somebody_has_yet_to_forget(admin: FakeAdmin) -> None:
    done = runner.invoke(app, ["buffer", "erase", "--tenant", "acme"])
    assert done.exit_code == 0 and "2 of 2 have forgotten" in done.output and "v0003-01234567" in done.output
    admin.complete = False
    open_ = runner.invoke(app, ["buffer", "erase", "--tenant", "acme"])
    assert open_.exit_code == 1 and "1 of 2" in open_.output and "not complete" in open_.output
    raw = runner.invoke(app, ["buffer", "erase", "--tenant", "acme", "--json"])
    assert raw.exit_code == 1 and json.loads(raw.output)["tenant"] == "acme"


def test_erase_offline_works_on_every_checkpoint(
    tmp_path: Path, make_interaction: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore(tmp_path / "artifacts")
    for target in ("one", "two"):
        reservoirs = Reservoirs()
        for index in range(20):
            reservoirs.add(make_interaction(index, tenant=("gone", "stays")[index % 2]))
        checkpoints = CheckpointStore(store, target)
        for _ in range(2):
            checkpoints.save(Checkpoint({}, b"t", reservoirs.to_bytes(), b"r"))
    for request in (1, 2):
        done = runner.invoke(
            app, ["buffer", "erase", "--tenant", "gone", "--offline", "--state-dir", str(tmp_path)]
        )
        assert done.exit_code == 0 and f"request {request}" in done.output, done.output
    files = [path for path in (tmp_path / "artifacts/learner").rglob("*") if path.is_file()]
    assert len(files) == 2 * 4 and not any(b"gone" in path.read_bytes() for path in files)
    assert all(
        any(b"stays" in path.read_bytes() for path in files if target in path.parts)
        for target in ("one", "two")
    )
    assert [request.tenant for request in ErasureLog(store).read()] == ["gone", "gone"]
