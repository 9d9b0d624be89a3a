"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from online_draft.bench.machine import synchronize
from online_draft.core import GenerationRequest
from online_draft.decoding.engine import Engine

PARTS = {
    "schedule": "host",
    "policy": "host",
    "draft": "draft",
    "forward": "forward",
    "choose": "verify",
    "commit": "compaction",
    "deliver": "host",
}
"""The engine's marks and what the report calls them."""

_WARM_UP = 3

PREFILL_ROWS = 512
"""Prompt rows per step of the engines whose steps are timed."""


class PartTimer:
    """The engine's `timer`: seconds per part of one step. Waits for the device at every mark."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._last = 0.0
        self.parts: dict[str, float] = {}

    def start(self) -> None:
        """A step begins."""
        synchronize(self._device)
        self.parts = dict.fromkeys(PARTS.values(), 0.0)
        self._last = time.perf_counter()

    def mark(self, part: str) -> None:
        """The part of a step that ends here."""
        synchronize(self._device)
        now = time.perf_counter()
        self.parts[PARTS[part]] += now - self._last
        self._last = now


@dataclass(slots=True)
class StepTimes:
    """Steps of one repeat, in seconds. `whole` ran without a timer, `parts` are of the steps between them."""

    whole: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    @property
    def step(self) -> float:
        """The median step."""
        return median(self.whole)

    @property
    def medians(self) -> dict[str, float]:
        """The median of each part."""
        return {name: median(values) for name, values in self.parts.items()}


def time_steps(engine: Engine, requests: Sequence[GenerationRequest], steps: int, device: str) -> StepTimes:
    """Run the requests to where all decode, time `steps` steps whole and as many split, then cancel them.

    Requests must be long enough: `tokens_needed`.
    """
    timer = PartTimer(device)
    times = StepTimes()
    waiting = {request.request_id for request in requests}
    for request in requests:
        engine.add(request)
    while waiting:
        waiting -= {output.request_id for output in engine.step() if output.token_ids}
    for number in range(-_WARM_UP, 2 * steps):
        split = number % 2 == 1
        engine.timer = timer if split else None
        timer.start()
        begin = time.perf_counter()
        outputs = engine.step()
        if split:
            timer.mark("deliver")
        synchronize(device)
        seconds = time.perf_counter() - begin
        if any(output.finish_reason is not None for output in outputs):
            raise RuntimeError("a request ended while its steps were timed")
        if number < 0:
            continue
        if split:
            for name, part in timer.parts.items():
                times.parts.setdefault(name, []).append(part)
        else:
            times.whole.append(seconds)
    engine.timer = None
    for request in requests:
        engine.cancel(request.request_id)
    return times


def tokens_needed(steps: int, depth: int, prompt_rows: int) -> int:
    """Tokens that a request can commit at most until its steps are timed, with trees so deep.

    `prompt_rows` are those of all requests together: the first one decodes while the last is taken in.
    """
    return (2 * steps + _WARM_UP + 3 - (-prompt_rows // PREFILL_ROWS)) * (depth + 1)
