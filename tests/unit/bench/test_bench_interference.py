"""The parts of `bench interference`: what is counted, and how it is told."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from online_draft.bench.interference.cpu_watch import CpuWatch, off_after, taken_after, worked_before
from online_draft.bench.interference.options import InterferenceOptions
from online_draft.bench.interference.report import MODES, Turn, interference_report, median_interval
from online_draft.bench.interference.serving import Latencies
from online_draft.errors import ConfigError

WORKING = [(0.00, 1.00), (0.01, 1.01), (0.02, 1.02)]


def test_the_process_is_off_the_cpu_behind_the_last_interval_that_it_took() -> None:
    samples = [*WORKING, (0.03, 1.028), (0.04, 1.03), (0.05, 1.031), (0.06, 1.031)]
    assert worked_before(samples, 0.02)
    assert off_after(samples, 0.02) == pytest.approx(0.01)
    assert taken_after(samples, 0.02) == pytest.approx(0.011)
    assert off_after([*samples, (0.07, 1.041)], 0.02) == pytest.approx(0.05), "it came back"
    assert off_after(WORKING, 0.02) == 0.0 and taken_after(WORKING, 0.5) == 0.0


def test_a_process_that_slept_did_not_work_before() -> None:
    assert not worked_before([(0.0, 1.0), (0.1, 1.01)], 0.1)
    assert not worked_before(WORKING[:1], 0.02)


def test_the_cpu_time_of_a_process_is_watched() -> None:
    with CpuWatch(os.getpid(), every_s=0.002) as watch:
        began, spent = time.monotonic(), time.process_time()
        while time.process_time() < spent + 0.1:
            pass
    assert len(watch.samples) >= 2
    assert [cpu for _, cpu in watch.samples] == sorted(cpu for _, cpu in watch.samples)
    assert 0 < taken_after(watch.samples, began) <= time.process_time()


def test_an_interval_holds_the_median() -> None:
    values = [1.0, 1.02, 1.05, 1.1, 1.3]
    found = median_interval(values)
    assert found is not None and found == median_interval(values)
    assert 1.0 <= found["low"] < found["median"] < found["high"] <= 1.3 and found["median"] == 1.05
    assert median_interval([]) is None


def test_ratios_are_taken_repeat_by_repeat() -> None:
    def turn(itl: float, off: list[float]) -> Turn:
        return Turn(Latencies([0.02], [itl] * 5, 0), off, 0.1, 2.0, 7)

    turns = {
        "off": [turn(0.01, []), turn(0.04, [])],
        "idle": [turn(0.012, [0.05]), turn(0.048, [0.15])],
        "floor": [turn(0.02, [1.0]), turn(0.08, [])],
        "off again": [turn(0.01, []), turn(0.04, [])],
    }
    assert tuple(turns) == MODES
    report = interference_report(InterferenceOptions(repeat=2), "tiny", "baseline", "native", turns)
    assert report["p99_itl_ratio"] == {
        "idle": {"median": 1.2, "low": 1.2, "high": 1.2},
        "floor": {"median": 2.0, "low": 2.0, "high": 2.0},
        "off again": {"median": 1.0, "low": 1.0, "high": 1.0},
    }
    assert report["off_cpu_ms"]["admissions"] == 2 and report["off_cpu_ms"]["p50"] == 100.0
    entry = report["modes"]["idle"]
    assert (entry["requests"], entry["failed"], entry["learner_slices"]) == (2, 0, 14)
    assert entry["learner_cpu_while_busy"] == 0.05


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"repeat": 0}, "repeat"),
        ({"bursts": 0}, "bursts"),
        ({"burst": 0}, "burst"),
        ({"max_new_tokens": 1}, "max-new-tokens"),
        ({"records": 7}, "records"),
        ({"pause_s": 0.1}, "pause"),
        ({"floor_share": 0.0}, "floor-share"),
        ({"kernels": "auto"}, "kernels"),
        ({"target": "elsewhere"}, "drafter"),
    ],
)
def test_the_option_is_named(changes: dict[str, Any], named: str) -> None:
    InterferenceOptions().check()
    with pytest.raises(ConfigError) as caught:
        InterferenceOptions(**changes).check()
    assert caught.value.field == named
