"""`bench shift`: learning without a service, and the whole command, short, simulated and live."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from online_draft.bench.shift.ladder import LADDER, Ladder
from online_draft.bench.shift.pupil import Pupil
from online_draft.bench.shift.serving import Server
from online_draft.buffer.reservoir_config import ReservoirConfig
from online_draft.cli import app
from online_draft.learner.config import GateConfig, LearnerConfig
from online_draft.learner.judge.ladder_view import LadderView
from online_draft.models.artifact import save_drafter
from online_draft.store import ArtifactStore
from online_draft.training.replay import mean_accepted_length, replayed_tau

LEARNER = LearnerConfig(
    gate=GateConfig(every_slices=120, min_records=16, max_records=48, resamples=500),
    reservoirs=ReservoirConfig(held_out_fraction=0.3),
    learning_rate=3e-3,
    warmup_steps=5,
)


def test_records_fed_by_hand_become_a_better_champion(traffic: Any, tmp_path: Path) -> None:
    loaded = traffic.loaded
    store = ArtifactStore(tmp_path / "store")
    save_drafter(traffic.drafter(), tmp_path / "start", loaded.fingerprint)
    ladder = Ladder(store, loaded.fingerprint, 1.0, replace(LADDER, canary_share=0, watch_share=0))
    ladder.start(tmp_path / "start", "start")
    view = LadderView(store, loaded.target, loaded.fingerprint, tmp_path / "cache", lambda decision: None)
    pupil = Pupil(loaded, LEARNER, view, nodes=8, slice_records=16)
    pupil.follow()
    static = pupil.student.champion
    pupil.work(5)
    assert pupil.total["slices"] == 0, "there is nothing to learn yet"
    for record in traffic.interactions(200):
        pupil.feed.add(record)
    while pupil.total["looks"] == 0:
        pupil.work(10)
        ladder.tick()
        pupil.follow()
    assert ladder.state.promoted == 1 and pupil.student.version == ladder.state.champion != "start"
    fresh = traffic.interactions(40, seed=7)
    taus = [
        mean_accepted_length(replayed_tau(drafter, loaded.target, fresh, 8))
        for drafter in (static, pupil.student.champion)
    ]
    assert taus[1] > 1.03 * taus[0]


def shift(out: Path, *arguments: str) -> Result:
    few = ("--order", "sql,math", "--requests-per-segment", "4", "--window", "2", "--max-new-tokens", "12")
    fixed = ("--check-every", "3", "--kernels", "off", "--threads", "1", "--slices", "1", "--json", str(out))
    return CliRunner().invoke(app, ["bench", "shift", "--simulate", *few, *fixed, *arguments])


def test_the_command_goes_through_all_phases(tmp_path: Path) -> None:
    out = tmp_path / "shift.json"
    ceiling = ("--ceiling", "train", "--ceiling-steps", "2", "--ceiling-answers", "3")
    result = shift(out, *ceiling)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert [phase["segment"] for phase in report["phases"]] == [
        "sql",
        "math",
        "math>sql",
        "sql",
        "math",
        "sql",
    ]
    for phase in report["phases"]:
        assert phase["requests"] == 4
        for name in ("tau_at_shift", "tau_final", "tau_static", "tau_final_replayed", "tau_offline_ceiling"):
            assert phase[name] >= 1, (phase["segment"], name)
    # Nothing was promoted in so few requests: the drafter of the start served, and a replay counts alike.
    assert report["versions"] == {"proposed": 0, "promoted": 0, "refused": 0, "rolled_back": 0}
    assert report["failed_requests"] == report["changed_outputs"] == 0 and report["checked_outputs"] == 8
    assert report["learner"]["slices"] > 0
    sql = report["phases"][0]
    assert sql["tau_final_replayed"] == sql["tau_static"]
    assert sql["tau_final"] == pytest.approx(sql["tau_static"], rel=0.35)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_live_system_gets_the_same_traffic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONLINE_DRAFT_STATE_DIR", str(tmp_path / "state"))
    out = tmp_path / "live.json"
    few = ("--order", "sql,math", "--phases", "sharp", "--requests-per-segment", "4", "--window", "2")
    fast = (
        "--max-new-tokens",
        "12",
        "--burst",
        "2",
        "--rate",
        "20",
        "--check-every",
        "4",
        "--kernels",
        "off",
    )
    arguments = ["bench", "shift", *few, *fast, "--threads", "1", "--json", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert (report["mode"], report["kernel"], report["arrivals"]["concurrency"]) == ("live", "eager", 2)
    assert [(phase["segment"], phase["requests"]) for phase in report["phases"]] == [("sql", 4), ("math", 4)]
    assert all(phase["tau_final"] >= 1 and phase["tau_static"] >= 1 for phase in report["phases"])
    assert [event["kind"] for event in report["events"]] == ["promote"], "where it starts"
    assert (report["failed_requests"], report["changed_outputs"], report["checked_outputs"]) == (0, 0, 2)


def test_an_interrupted_run_writes_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, answers = Server.answer, []

    def interrupted(server: Server, request: Any) -> Any:
        if len(answers) == 6:
            raise KeyboardInterrupt
        answers.append(answer(server, request))
        return answers[-1]

    monkeypatch.setattr(Server, "answer", interrupted)
    result = shift(tmp_path / "shift.json")
    assert result.exit_code == 130, result.output
    report = json.loads((tmp_path / "shift.json").read_text())
    assert report["interrupted"] and [phase["requests"] for phase in report["phases"]] == [4, 2]
    assert report["phases"][0]["tau_final"] >= 1 and report["phases"][1]["tau_final"] is None
