"""The engine's thread tells the roll-ups what becomes of each request."""

from __future__ import annotations

import asyncio

import pytest

from online_draft.core import GenerationRequest, SamplingParams, SpeculationCounts, StepOutput
from online_draft.errors import CapacityError
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.traffic_counts import LIVE, Cell, TrafficCounts
from online_draft.monitor.rollups.traffic_meter import TrafficMeter
from online_draft.monitor.rollups.traffic_rows import from_row, unpack_rows
from online_draft.serve.engine_thread import EngineThread


class TwoStepEngine:
    """Gives a request two outputs; a prompt of 2 tokens is one too many, one of 3 breaks a step."""

    def __init__(self) -> None:
        self.running: dict[str, int] = {}
        self.hold = False

    @property
    def has_work(self) -> bool:
        return bool(self.running) and not self.hold

    def add(self, request: GenerationRequest) -> None:
        if len(request.prompt_ids) == 2:
            raise CapacityError("the queue is full")
        self.running[request.request_id] = len(request.prompt_ids)

    def cancel(self, request_id: str) -> None:
        self.running.pop(request_id, None)

    def step(self) -> list[StepOutput]:
        if 3 in self.running.values():
            self.running.clear()
            raise RuntimeError("broken")
        outputs = []
        for name, left in list(self.running.items()):
            last = left <= 0
            counts = SpeculationCounts(2, 3) if last else None
            outputs.append(StepOutput(name, (1,) if last else (1, 1), "", "stop" if last else None, counts))
            self.running[name] = left - 1
            if last:
                del self.running[name]
        return outputs

    def load(self) -> tuple[int, int]:
        return len(self.running), 0


def counted(board: RollupBoard) -> dict[Cell, TrafficCounts]:
    board.fold()
    (hour,) = [data for (seconds, _), data in board.unsaid().items() if seconds == 3600]
    cells = {cell: from_row(row) for cell, row in unpack_rows(hour)}
    for cell in cells.values():
        cell.first_token = [sum(cell.first_token)]
        cell.inter_token = [sum(cell.inter_token)]
    return cells


async def test_each_request_is_counted_once_as_what_it_became() -> None:
    engine, board = TwoStepEngine(), RollupBoard("replica", lambda: 1000.0)
    thread = EngineThread(lambda: engine, meter=TrafficMeter(board))
    thread.start(10)

    def ask(name: str, prompt: int) -> GenerationRequest:
        return GenerationRequest(name, (0,) * prompt, SamplingParams(), segment="sql")

    try:
        assert len([output async for output in thread.generate(ask("fine", 1))]) == 2
        with pytest.raises(CapacityError):
            await anext(thread.generate(ask("one too many", 2)))
        broken = [output async for output in thread.generate(ask("broken", 3))]
        assert broken[-1].finish_reason == "error"
        engine.hold = True
        stream = thread.generate(ask("gone", 1))
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wrap_future(thread.call(lambda engine: None))
    finally:
        thread.close()
    cells = counted(board)
    errors = {"overloaded": 1, "failed": 1, "cancelled": 1}
    assert cells["sql", LIVE] == TrafficCounts(tokens=3, first_token=[1], inter_token=[1], errors=errors)
    assert cells["sql", "none"] == TrafficCounts(
        1, 1, speculation=SpeculationCounts(2, 3), first_token=[0], inter_token=[0]
    )
