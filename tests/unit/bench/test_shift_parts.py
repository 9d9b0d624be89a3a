"""`bench shift`: its traffic, what it counts, what it decides by, what it reports."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from online_draft.bench.shift import INTERRUPTED, ShiftOptions, run
from online_draft.bench.shift.events import Event
from online_draft.bench.shift.ladder import LADDER, Ladder
from online_draft.bench.shift.phases import Phase, Traffic, plan
from online_draft.bench.shift.picture import draw
from online_draft.bench.shift.report import Findings, print_report, shift_report, summary
from online_draft.bench.shift.tally import (
    Served,
    Tally,
    conditional_acceptance,
    requests_to_gain,
    tau,
    windows,
)
from online_draft.errors import ConfigError
from online_draft.models.artifact import save_drafter
from online_draft.registry.journal import Decision
from online_draft.registry.ladder import LadderState, decide
from online_draft.registry.manifest import Provenance
from online_draft.store import ArtifactStore
from online_draft.training.replay import ReplayResult

OPTIONS = ShiftOptions(simulate=True, requests_per_segment=4, window=2)
ENTRY = {
    *("kind", "segment", "requests", "tau_at_shift", "tau_final", "tau_final_replayed", "tau_static"),
    *("tau_static_at_shift", "tau_offline_ceiling", "acceptance_at_shift", "acceptance_final"),
    *("requests_to_90_percent_of_gain", "tau_by_window", "tau_static_by_window", "depths"),
}


def served(steps: int, committed: int, tried: tuple[int, ...] = (), accepted: tuple[int, ...] = ()) -> Served:
    return Served(steps, committed, tried, accepted, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"burst": 0}, "burst"),
        ({"order": ("sql",)}, "order"),
        ({"order": ("sql", "sql")}, "order"),
        ({"order": ("sql", "poems")}, "order"),
        ({"kinds": ("sharp", "soft")}, "phases"),
        ({"kinds": ()}, "phases"),
        ({"window": 0}, "window"),
        ({"requests_per_segment": 2}, "requests-per-segment"),
        ({"requests_per_segment": 5}, "requests-per-segment"),
        ({"slices": -1}, "slices"),
        ({"rate": 0.0}, "rate"),
        ({"max_new_tokens": 1}, "max-new-tokens"),
        ({"ceilings": (("poems", Path()),)}, "ceiling"),
        ({"kernels": "auto"}, "kernels"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    OPTIONS.check()
    with pytest.raises(ConfigError, match=f"^{named}"):
        replace(OPTIONS, **change).check()


def test_traffic_goes_through_the_order_then_mixes_then_returns() -> None:
    options = replace(OPTIONS, order=("math", "sql", "story"))
    assert [(phase.kind, phase.segment) for phase in plan(options)] == [
        *(("sharp", "math"), ("sharp", "sql"), ("sharp", "story")),
        ("gradual", "story>math"),
        *(("return", "math"), ("return", "sql"), ("return", "math")),
    ]
    assert [phase.kind for phase in plan(replace(options, kinds=("gradual",)))] == ["gradual"]


def test_a_gradual_phase_moves_from_the_first_to_the_second() -> None:
    drawn = list(Phase("gradual", ("sql", "math"), 1000).schedule(Random(0)))
    shares = [part.count("math") / 200 for part in windows(drawn, 200)]
    assert shares == sorted(shares) and shares[0] < 0.2 and shares[-1] > 0.8
    assert set(Phase("sharp", ("sql",), 50).schedule(Random(0))) == {"sql"}


def test_no_prompt_comes_twice_and_all_is_fixed_by_the_seed(
    traffic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = count()
    monkeypatch.setattr(
        "online_draft.bench.shift.phases.Conversation.token_ids",
        lambda conversation, tokenizer: tuple(conversation.messages[0]["content"].encode()),
    )
    phase = Phase("sharp", ("sql",), 20)
    source = Traffic(OPTIONS, traffic.loaded)
    first, later = list(source.requests(phase)), list(source.requests(phase))
    assert len({request.prompt_ids for request in first + later}) == 40
    assert [request.request_id for request in first + later] == [f"r{next(numbers)}" for _ in range(40)]
    assert list(Traffic(OPTIONS, traffic.loaded).requests(phase)) == first
    assert list(Traffic(replace(OPTIONS, seed=1), traffic.loaded).requests(phase)) != first


def test_windows_are_complete_and_follow_each_other() -> None:
    assert windows(range(7), 3) == [[0, 1, 2], [3, 4, 5]]
    assert tau([served(10, 15), served(10, 25)]) == 2.0
    assert tau([]) is None


@pytest.mark.parametrize(
    ("taus", "wanted"),
    [
        ([1.0, 1.5, 1.89, 2.0], 200),
        ([1.0, 1.5, 1.9, 2.0], 150),
        ([1.0, 2.5, 1.9, 2.0], 100),
        ([2.0, 1.5, 2.0], None),
        ([2.0, 1.5], None),
        ([2.0, 2.09], None),
        ([2.0], None),
        ([], None),
        ([1.0, None, 2.0], None),
    ],
)
def test_requests_until_most_of_the_gain(taus: list[float | None], wanted: int | None) -> None:
    assert requests_to_gain(taus, 50) == wanted


def test_acceptance_is_averaged_over_depths_that_both_windows_tried() -> None:
    before = [served(50, 60, (25, 25, 25), (10, 0, 25)), served(50, 60, (75, 25), (40, 0))]
    after = [served(100, 200, (100, 100, 1), (80, 60, 1))]
    # The third depth was tried once only: 50 of 100 and 0 of 50, then 80 and 60 of 100.
    assert conditional_acceptance(before, after) == (0.25, pytest.approx(0.7))
    assert conditional_acceptance([], after) == (None, None)


def test_a_phase_says_what_it_gained_and_null_where_it_does_not_know() -> None:
    tally = Tally(Phase("sharp", ("math",), 6), 2)
    entry = tally.as_json()
    assert set(entry) == ENTRY
    assert entry["tau_at_shift"] is entry["tau_final"] is entry["requests_to_90_percent_of_gain"] is None
    for steps in (20, 20, 10, 12, 10, 10):
        tally.served.append(served(steps, 20, (steps,), (steps // 2,)))
    tally.static = [ReplayResult(16, 20, [], [])] * 6
    tally.ceiling = [ReplayResult(8, 20, [], [])] * 6
    entry = tally.as_json()
    assert (entry["tau_at_shift"], entry["tau_final"]) == (1.0, 2.0)
    assert (entry["tau_static"], entry["tau_offline_ceiling"]) == (1.25, 2.5)
    assert entry["tau_by_window"] == [1.0, round(40 / 22, 4), 2.0]
    assert entry["requests_to_90_percent_of_gain"] == 6
    assert entry["depths"]["at_shift"] == {"tried": [40], "accepted": [20]}


def sharp(segment: str, kind: str = "sharp", **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(ENTRY), "kind": kind, "segment": segment, "requests": 100, **values}


def test_the_summary_is_of_shifts_and_of_the_return() -> None:
    phases = [
        sharp("sql", acceptance_at_shift=0.0, acceptance_final=0.9, tau_final=9.0, tau_static=1.0),
        sharp("math", acceptance_at_shift=0.2, acceptance_final=0.5, tau_final=3.0, tau_static=2.0),
        sharp("story", acceptance_at_shift=0.3, acceptance_final=0.4, tau_final=2.0, tau_static=2.0),
        sharp("sql", "return", tau_final=2.0),
        sharp("math", "return"),
        sharp("sql", "return", tau_at_shift=1.9),
    ]
    found = summary(phases)
    assert found["acceptance_gain"] == pytest.approx(0.2)
    assert found["tau_final_over_static"] == 1.25
    assert found["tau_final_over_ceiling"] is None
    assert found["return"] == {
        "segment": "sql",
        "tau_before": 2.0,
        "tau_after": 1.9,
        "after_over_before": 0.95,
    }
    assert summary(phases[:1])["return"]["after_over_before"] is None


@pytest.fixture
def report() -> dict[str, Any]:
    tally = Tally(Phase("sharp", ("math",), 4), 2, [served(10, 20)] * 4, [ReplayResult(16, 20, [], [])] * 4)
    findings = Findings(
        tallies=[tally],
        events=[Event(3, Decision(1, "promote", "v1", "control", "gain"))],
        ladder=LadderState(proposed=3, promoted=2, refused=1),
        learner={"slices": 7},
        failed=0,
        checked=1,
        changed=0,
        near_ties=0,
        requests=4,
        serving_s=1.0,
        elapsed_s=2.0,
        kernel="torch",
        interrupted=True,
    )
    return shift_report(OPTIONS, "embedded", "narrow", findings)


def test_the_report_has_the_fields_that_scripts_read(report: dict[str, Any]) -> None:
    assert report["versions"] == {"proposed": 3, "promoted": 2, "refused": 1, "rolled_back": 0}
    fields = {"phases", "failed_requests", "changed_outputs", "arrivals", "cores", "cpu", "interrupted"}
    assert fields <= set(report)
    assert report["arrivals"]["per_second_measured"] == 2.0
    assert report["ceilings"] is None
    out = io.StringIO()
    print_report(report, Console(file=out, width=140))
    assert "sharp math" in out.getvalue() and "3 proposed, 2 promoted, 1 refused" in out.getvalue()


def test_a_picture_is_drawn_where_matplotlib_is(report: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(report, tmp_path / "shift.png")
    assert (tmp_path / "shift.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_rest_is_written(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("online_draft.bench.shift.measure", lambda options, console: report)
    monkeypatch.setattr("online_draft.bench.shift.can_draw", lambda: False)
    out = io.StringIO()
    options = replace(OPTIONS, json_path=tmp_path / "shift.json")
    assert run(options, Console(file=out, width=140)) == INTERRUPTED
    assert "pip install 'online-draft[plots]'" in out.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["shift.json"]


class Climber:
    """A ladder with one candidate after the other, all of the same weights but for their names."""

    def __init__(self, traffic: Any, directory: Path) -> None:
        loaded = traffic.loaded
        save_drafter(traffic.drafter(), directory / "drafter", loaded.fingerprint)
        self.directory = directory / "drafter"
        self.ladder = Ladder(ArtifactStore(directory / "store"), loaded.fingerprint, 1.0, LADDER)
        self.ladder.start(self.directory, "start")

    def propose(self, name: str) -> None:
        self.ladder.registry.publish(self.directory, Provenance(), name=name)
        state = self.ladder.state
        numbers = {"parent": state.champion}
        decide(self.ladder.journal, state.seq, "propose", name, "learner", "gain", numbers)

    def serve(self, version: str, steps: int, requests: int = 1) -> list[str]:
        """Requests of 60 tokens (but for a little) that took so many steps each; what was decided behind."""
        made = []
        for number in range(requests):
            self.ladder.note("a", version, steps + number % 3, 60)
            made += [decision.kind for decision in self.ladder.tick()]
        return made


@pytest.fixture
def climber(traffic: Any, tmp_path: Path) -> Climber:
    return Climber(traffic, tmp_path)


def test_a_candidate_climbs_and_settles_on_the_clock_of_requests(climber: Climber) -> None:
    climber.propose("better")
    assert [decision.kind for decision in climber.ladder.tick()] == ["canary"]
    assert climber.serve("better", 30, 8) == []
    assert climber.serve("start", 40, 8) == ["promote"]
    assert climber.ladder.state.champion == "better" and climber.ladder.state.watched
    made = climber.serve("better", 30, int(LADDER.watch_s))
    assert made == ["settle"] and not climber.ladder.state.watched


def test_a_champion_that_disappoints_is_rolled_back(climber: Climber) -> None:
    climber.propose("worse")
    climber.ladder.tick()
    climber.serve("worse", 30, 8)
    assert climber.serve("start", 40, 8) == ["promote"]
    climber.serve("start", 30, 15)
    assert "roll_back" in climber.serve("worse", 60, 20)
    assert climber.ladder.state.champion == "start" and climber.ladder.state.rolled_back == 1


def test_requests_that_several_versions_drafted_for_count_for_none(climber: Climber) -> None:
    climber.propose("better")
    climber.ladder.tick()
    for _ in range(20):
        climber.ladder.note("a", None, 30, 60)
        assert climber.ladder.tick() == []
    assert climber.ladder.state.canary == "better"
