"""Drift: when a mean changed, why, and what is said when nothing is known."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from typing import Any

import pytest

from online_draft.bench.drift.measure import AFTER, BEFORE, measure
from online_draft.bench.drift.scenarios import SCENARIOS, Scenario, samples
from online_draft.control.config import ControlConfig
from online_draft.errors import ConfigError
from online_draft.monitor.drift.adwin import Adwin
from online_draft.monitor.drift.config import MOST_SAMPLES, DriftConfig
from online_draft.monitor.drift.samples import DriftSample, Hits
from online_draft.monitor.drift.segment import SegmentDrift
from online_draft.monitor.drift.verdict import as_figures, judge
from online_draft.store import RedisKeys

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def changes(detector: Adwin, values: list[float]) -> list[tuple[int, int]]:
    """Where changes were found, and how many values the detector dated behind them."""
    found = []
    for number, value in enumerate(values):
        detector.update(value)
        if detector.changed:
            found.append((number, detector.changed))
    return found


def test_a_stream_that_doesnt_change_is_one_window() -> None:
    rng = random.Random(1)
    for kind in (lambda: rng.random(), lambda: float(rng.random() < 0.3), lambda: 0.5):
        detector = Adwin(0.05)
        assert changes(detector, [kind() for _ in range(3000)]) == []
        assert detector.width == 2048


@pytest.mark.parametrize("seed", range(5))
def test_a_jump_is_found_soon_and_dated_well(seed: int) -> None:
    # The stream of the original implementations' example: ones and zeros, then 4 to 7, here divided by 7.
    rng = random.Random(seed)
    values = [rng.randint(0, 1) / 7 for _ in range(1000)] + [rng.randint(4, 7) / 7 for _ in range(1000)]
    (first, behind), *more = changes(Adwin(0.002), values)
    assert 1000 <= first <= 1023
    assert abs(first + 1 - behind - 1000) <= 4
    assert more == []


def test_a_slow_change_is_found_on_its_way() -> None:
    rng = random.Random(0)
    values = [
        min(1.0, max(0.0, rng.gauss(0.8 - 0.4 * min(1, max(0, n - 500) / 800), 0.1))) for n in range(1500)
    ]
    found = changes(Adwin(0.002), values)
    assert 550 < found[0][0] < 800 and len(found) >= 3


def test_smaller_changes_take_longer() -> None:
    def delay(fall: float) -> int:
        rng = random.Random(7)
        values = [rng.betavariate(6, 4) for _ in range(500)]
        values += [max(0.0, rng.betavariate(6, 4) - fall) for _ in range(500)]
        return changes(Adwin(0.05), values)[0][0] - 500

    assert 0 < delay(0.4) < delay(0.2) < delay(0.1)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_values_outside_0_to_1_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="value"):
        Adwin().update(value)


@pytest.mark.parametrize(
    "wrong", [{"delta": 0.0}, {"delta": 1.0}, {"min_side": 0}, {"min_side": 40, "max_window": 64}]
)
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Adwin(**wrong)


@pytest.mark.parametrize(
    ("wrong", "accepted"),
    [
        ({"delta": 2.0}, "between 0 and 1"),
        ({"window": 1}, "from 64 to 2048"),
        ({"window": 4096}, "from 64 to 2048"),
        ({"min_side": 33, "window": 64}, "from 1 to 32"),
        ({"min_samples": 1}, "from 2 to 256"),
        ({"min_fall": 0.0}, "between 0 and 1"),
        ({"min_rise": 1.0}, "between 0 and 1"),
        ({"settle": 0}, "from 1 to 256"),
        ({"settle": 257}, "from 1 to 256"),
        ({"hold_s": -1.0}, "positive"),
        ({"every_s": float("inf")}, "finite"),
    ],
)
def test_wrong_drift_settings_are_named(wrong: dict[str, Any], accepted: str) -> None:
    with pytest.raises(ConfigError, match=accepted) as error:
        DriftConfig(**wrong)
    assert error.value.field == f"control.drift.{next(iter(wrong))}"


def test_the_window_is_no_longer_than_what_a_restart_finds() -> None:
    assert RedisKeys().drift_samples_maxlen == MOST_SAMPLES == DriftConfig().window


def test_control_takes_what_is_set() -> None:
    drift = DriftConfig(delta=0.01, settle=60)
    assert ControlConfig.from_dict(asdict(ControlConfig(drift=drift))).drift == drift


def run(
    scenario: Scenario, before: int = 300, after: int = 300, seed: int = 0
) -> tuple[list[DriftSample], Any]:
    """Samples of a scenario, and the drift that they show."""
    made = list(samples(scenario, seed, before, after))
    drift = SegmentDrift("sql", DriftConfig())
    for number, sample in enumerate(made):
        drift.update(number * 1000, sample)
    return made, drift


def test_without_samples_or_without_recent_ones_nothing_is_known() -> None:
    empty = SegmentDrift("sql", DriftConfig()).state(0)
    assert (empty.alarm, empty.verdict, empty.at_ms) == (False, "unknown", None)
    _, drift = run(BY_NAME["another domain"])
    assert drift.state(600_000).alarm
    late = drift.state(600_000 + 901_000)
    assert (late.alarm, late.verdict) == (False, "unknown")


def test_samples_that_say_nothing_change_nothing() -> None:
    _, drift = run(BY_NAME["nothing changes"])
    before = drift.state(300_000)
    for number in range(100):
        drift.update(300_000, DriftSample(f"empty {number}", "v9", Hits()))
    assert drift.state(300_000) == before


def test_a_sample_that_comes_twice_counts_once() -> None:
    made, drift = run(BY_NAME["another domain"])
    again = SegmentDrift("sql", DriftConfig())
    for number, sample in enumerate(made):
        for copy in (sample, made[max(0, number - 5)], sample):
            again.update(number * 1000, copy)
    assert again.state(600_000) == drift.state(600_000)


def test_an_alarm_names_the_cause_once_it_has_seen_enough() -> None:
    scenario = BY_NAME["another domain"]
    drift = SegmentDrift("sql", DriftConfig(settle=60))
    seen = []
    for number, sample in enumerate(samples(scenario, 0, 300, 200)):
        drift.update(number * 1000, sample)
        state = drift.state(number * 1000)
        if state.alarm:
            seen.append(state)
    assert [state.verdict for state in seen] == sorted((state.verdict for state in seen), reverse=True)
    assert {seen[0].verdict, seen[-1].verdict} == {"unknown", "stale"}
    assert len({state.alarm_ms for state in seen}) == 1
    champion = seen[-1].figures["champion"]
    assert champion["after"] < champion["before"] - 0.1 and champion["z"] < -5


def test_an_alarm_ends_when_acceptance_is_back() -> None:
    _, drift = run(BY_NAME["another domain"])
    assert drift.state(600_000).alarm
    for number, sample in enumerate(samples(BY_NAME["nothing changes"], 1, 200, 0)):
        drift.update(600_000 + number * 1000, replace(sample, record=f"back {number}"))
    state = drift.state(800_000)
    assert (state.alarm, state.verdict) == (False, "none")


def test_a_fall_that_lasts_is_the_new_normal_after_a_while() -> None:
    made = list(samples(BY_NAME["another domain"], 0, 300, 400))
    drift = SegmentDrift("sql", DriftConfig(hold_s=100.0))
    for number, sample in enumerate(made):
        drift.update(number * 1000, sample)
    assert not drift.state(700_000).alarm


class Told:
    """A detector that is told when the mean changed."""

    changed = 0

    def update(self, value: float) -> None:
        pass


def test_any_detector_can_say_when() -> None:
    detector = Told()
    drift = SegmentDrift("sql", DriftConfig(), lambda: detector)
    for number, sample in enumerate(samples(BY_NAME["harder traffic"], 0, 100, 60)):
        detector.changed = 40 if number == 139 else 0
        drift.update(number * 1000, sample)
        assert drift.state(number * 1000).alarm == (number >= 139)
    state = drift.state(159_000)
    assert (state.verdict, state.alarm_ms) == ("harder", 139_000)
    assert state.figures["champion"]["samples_after"] == 60


def test_a_rise_is_no_alarm() -> None:
    _, drift = run(BY_NAME["a better drafter"])
    assert drift.state(600_000).verdict == "none"


@pytest.mark.parametrize(
    "scenario", [s for s in SCENARIOS if s.over == 1], ids=lambda scenario: scenario.name
)
def test_the_verdict_is_read_from_what_fell(scenario: Scenario) -> None:
    made = list(samples(scenario, 3, 200, 200))
    verdict = judge(made[:200], made[200:])
    assert verdict.kind == scenario.truth
    figures = as_figures(verdict)
    assert {"champion", "baseline", "entropy"} <= figures.keys()
    assert figures["champion"]["samples_before"] == 200


def test_a_verdict_needs_its_figures() -> None:
    made = list(samples(BY_NAME["harder traffic"], 0, 100, 100))
    assert judge(made[:100], made[100:107]).kind == "unknown"
    assert judge(made[:100], made[100:]).kind == "harder"
    for missing in ({"baseline": Hits()}, {"positions": 0}):
        without = [replace(sample, **missing) for sample in made]
        assert judge(without[:100], without[100:]).kind == "unknown"


def test_what_is_a_fall_and_a_rise_can_be_set() -> None:
    made = list(samples(BY_NAME["harder traffic"], 0, 100, 100))
    for config, kind in (
        (DriftConfig(min_fall=0.9), "none"),
        (DriftConfig(min_rise=0.9), "stale"),
        (DriftConfig(min_samples=101), "unknown"),
    ):
        assert judge(made[:100], made[100:], config).kind == kind


def test_figures_are_finite() -> None:
    made = [DriftSample(str(n), "v1", Hits((2,), (4,)), Hits((1,), (4,)), 10**6, 1) for n in range(20)]
    worse = [replace(sample, champion=Hits((1,), (4,))) for sample in made]
    assert as_figures(judge(made, worse))["champion"]["z"] == -99.0
    assert as_figures(judge(made, made))["champion"]["z"] == 0.0


def test_weights_that_serve_on_both_sides_did_not_regress() -> None:
    made = list(samples(BY_NAME["a worse drafter"], 0, 100, 100))
    assert judge(made[:100], made[100:]).kind == "regressed"
    same = [replace(sample, version="v1") for sample in made]
    assert judge(same[:100], same[100:]).kind == "stale"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_false_alarms_delays_and_verdicts_are_as_documented() -> None:
    for outcome in measure(runs=20):
        assert outcome.false_alarms == 0, outcome
        assert outcome.missed == 0, outcome
        assert outcome.verdicts[outcome.scenario.truth] >= 18, outcome
    assert BEFORE + AFTER == 1100
