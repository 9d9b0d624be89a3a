"""Which of the last requests are worth a look."""

from __future__ import annotations

from typing import Any

from online_draft.core import GenerationRequest, SpeculationCounts, StepOutput
from online_draft.monitor.recent import KEPT, RECENT_S, SHOWN, RecentRequest, RecentRequests
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.traffic_meter import TrafficMeter


def request(number: int, **more: Any) -> RecentRequest:
    given = {
        "request": f"r{number}", "tenant": "acme", "segment": "sql", "version": "v1", "at_ms": 1_000_000,
        "prompt_tokens": 3, "tokens": 10, "steps": 5, "first_token_us": 10, "total_us": number,
    }  # fmt: skip
    return RecentRequest(**{**given, **more})


def names(found: dict[str, list[dict[str, Any]]], kind: str) -> list[str]:
    return [one["request"] for one in found[kind]]


def test_the_slowest_and_the_least_accepted_come_first() -> None:
    recent = RecentRequests(lambda: 1_000.0)
    for number in range(2 * SHOWN):
        recent.add(request(number, tokens=10 + number))
    recent.add(request(99, tokens=3, steps=3, total_us=0))  # too few steps to say anything
    found = recent.notable()
    assert names(found, "slowest") == [f"r{number}" for number in range(2 * SHOWN - 1, SHOWN - 1, -1)]
    assert names(found, "least_accepted") == [f"r{number}" for number in range(SHOWN)]
    assert found["slowest"][0] == request(2 * SHOWN - 1, tokens=9 + 2 * SHOWN)._asdict()


def test_old_ones_and_erased_ones_are_gone_and_the_number_is_bounded() -> None:
    now = [1_000.0]
    recent = RecentRequests(lambda: now[0])
    recent.add(request(9, tenant="eve"))
    recent.add(request(1))
    recent.forget("eve")
    assert names(recent.notable(), "slowest") == ["r1"]
    now[0] += RECENT_S + 1
    assert recent.notable() == {"slowest": [], "least_accepted": []}
    for number in range(KEPT + 1):
        recent.add(request(KEPT - number, at_ms=int(1000 * now[0])))
    assert names(recent.notable(), "slowest")[0] == f"r{KEPT - 1}", "the first one had to go"


def test_a_meter_tells_of_requests_that_finished() -> None:
    recent, now = RecentRequests(), [10.0]
    meter = TrafficMeter(RollupBoard("replica"), lambda: now[0], recent)
    meter.begin(GenerationRequest("a", (1, 2, 3), segment="sql", tenant="acme"), 9.0)
    meter.begin(GenerationRequest("b", (1,)), 9.0)
    meter.step(StepOutput("a", (5, 6), ""))
    now[0] = 12.5
    counts = SpeculationCounts(4, 6)
    meter.step(StepOutput("a", (7, 8, 9, 10), "", "stop", counts, drafter_version="v1"))
    meter.step(StepOutput("b", (7,), "", "abort"))
    (one,) = recent.notable()["slowest"]
    assert one.pop("at_ms") > 0
    assert one == {
        "request": "a", "tenant": "acme", "segment": "sql", "version": "v1", "prompt_tokens": 3, "tokens": 6,
        "steps": 4, "first_token_us": 1_000_000, "total_us": 3_500_000,
    }  # fmt: skip
