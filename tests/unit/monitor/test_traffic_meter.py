"""What becomes of requests, as an engine's outputs tell it."""

from __future__ import annotations

from typing import Any

import pytest

from online_draft.core import GenerationRequest, SpeculationCounts, StepOutput
from online_draft.errors import CapacityError, OnlineDraftError, RequestError
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.histogram import place
from online_draft.monitor.rollups.traffic_counts import ERROR_KINDS, LIVE, Cell, TrafficCounts
from online_draft.monitor.rollups.traffic_meter import TrafficMeter
from online_draft.monitor.rollups.traffic_rows import from_row, unpack_rows

ASK = GenerationRequest("a", (1, 2, 3), segment="sql")


class Watch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def board() -> RollupBoard:
    return RollupBoard("replica", lambda: 1000.0)


@pytest.fixture
def meter(board: RollupBoard, watch: Watch) -> TrafficMeter:
    return TrafficMeter(board, watch)


def seen(board: RollupBoard) -> dict[Cell, TrafficCounts]:
    board.fold()
    return {cell: from_row(row) for cell, row in unpack_rows(board.unsaid()[1, 1000])}


def out(*tokens: int, **more: Any) -> StepOutput:
    return StepOutput("a", tokens, "", **more)


def one_in(seconds: float) -> list[int]:
    return [0] * place(seconds) + [1]


def test_a_request_counts_its_tokens_as_they_come_and_itself_at_the_end(
    meter: TrafficMeter, board: RollupBoard, watch: Watch
) -> None:
    meter.begin(ASK, 0.0)
    watch.now = 0.25
    meter.step(out(5))
    watch.now = 0.26
    meter.step(out(6, 7, 8))
    watch.now = 0.3
    meter.step(out())
    speculation = SpeculationCounts(2, 4, 8, [1], [1])
    meter.step(out(finish_reason="stop", counts=speculation, drafter_version="v1"))
    meter.end("a")
    assert seen(board) == {
        ("sql", LIVE): TrafficCounts(0, 0, 4, first_token=one_in(0.25), inter_token=one_in(0.26 - 0.25)),
        ("sql", "v1"): TrafficCounts(1, 3, 0, speculation),
    }


def test_a_request_that_two_versions_drafted_for_is_one_request(
    meter: TrafficMeter, board: RollupBoard
) -> None:
    meter.begin(ASK, 0.0)
    parts = ((None, SpeculationCounts(1, 1)), ("v2", SpeculationCounts(2, 4, 8, [1], [1])))
    meter.step(out(finish_reason="length", by_version=parts, drafter_version="v2"))
    cells = seen(board)
    assert cells["sql", "none"] == TrafficCounts(speculation=parts[0][1])
    assert cells["sql", "v2"] == TrafficCounts(1, 3, 0, parts[1][1])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (None, "cancelled"),
        (CapacityError("full"), "overloaded"),
        (RequestError("too long"), "refused"),
        (OnlineDraftError("broken"), "failed"),
    ],
)
def test_a_request_that_ends_early_counts_as_one_error(
    meter: TrafficMeter, board: RollupBoard, error: Exception | None, kind: str
) -> None:
    meter.begin(ASK, 0.0)
    meter.end("a", error)
    meter.end("a", error)
    meter.step(out(5))
    assert kind in ERROR_KINDS
    assert seen(board) == {("sql", LIVE): TrafficCounts(errors={kind: 1})}


@pytest.mark.parametrize(("reason", "kind"), [("abort", "deadline"), ("error", "failed")])
def test_a_last_output_can_tell_of_an_error(
    meter: TrafficMeter, board: RollupBoard, reason: Any, kind: str
) -> None:
    meter.begin(ASK, 0.0)
    meter.step(out(finish_reason=reason))
    assert seen(board) == {("sql", LIVE): TrafficCounts(errors={kind: 1})}
