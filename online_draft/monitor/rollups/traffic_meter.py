"""Follows the requests of one engine and counts on a board what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from online_draft.core import GenerationRequest, SpeculationCounts, StepOutput
from online_draft.errors import CapacityError, RequestError
from online_draft.monitor.counts import PLAIN
from online_draft.monitor.recent import RecentRequest, RecentRequests
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.histogram import place


class _Running:
    __slots__ = ("asked_s", "first_s", "last_s", "prompt_tokens", "segment", "started", "tenant")

    def __init__(self, request: GenerationRequest, asked_at_s: float) -> None:
        self.tenant = request.tenant
        self.segment = request.segment
        self.prompt_tokens = len(request.prompt_ids)
        self.asked_s = self.first_s = self.last_s = asked_at_s
        self.started = False


class TrafficMeter:
    """`begin` with each request, `step` with each of its outputs, `end` when it ends without a last output.

    Takes microseconds, does no I/O. For one thread; times come from `clock`, in seconds. `recent` gets each
    request that finished.
    """

    def __init__(
        self,
        board: RollupBoard,
        clock: Callable[[], float] = time.perf_counter,
        recent: RecentRequests | None = None,
    ) -> None:
        self._board = board
        self._recent = recent
        self._clock = clock
        self._running: dict[str, _Running] = {}

    def begin(self, request: GenerationRequest, asked_at_s: float) -> None:
        """A request that came in at a time of the clock."""
        self._running[request.request_id] = _Running(request, asked_at_s)

    def step(self, output: StepOutput) -> None:
        """Count an output's tokens and latency; with the last one the request. Unknown ones are ignored."""
        running = self._running.get(output.request_id)
        if running is None:
            return
        if output.token_ids:
            now = self._clock()
            gap = place(now - running.last_s)
            self._board.tokens(running.segment, len(output.token_ids), not running.started, gap)
            if not running.started:
                running.first_s, running.started = now, True
            running.last_s = now
        if output.finish_reason is not None:
            del self._running[output.request_id]
            self._finish(running, output)

    def end(self, request_id: str, error: Exception | None = None) -> None:
        """A request failed, or with no error was cancelled. Idempotent."""
        running = self._running.pop(request_id, None)
        if running is not None:
            self._board.error(running.segment, _kind_of(error))

    def _finish(self, running: _Running, output: StepOutput) -> None:
        if output.finish_reason == "abort":
            self._board.error(running.segment, "deadline")
        elif output.finish_reason == "error":
            self._board.error(running.segment, "failed")
        else:
            parts = output.by_version or ((output.drafter_version, output.counts or SpeculationCounts()),)
            for version, counts in parts[:-1]:
                self._board.speculated(running.segment, version, counts)
            self._board.finished(running.segment, *parts[-1], running.prompt_tokens)
            if self._recent is not None:
                self._recent.add(_recent(running, output))


def _kind_of(error: Exception | None) -> str:
    if error is None:
        return "cancelled"
    if isinstance(error, CapacityError):
        return "overloaded"
    return "refused" if isinstance(error, RequestError) else "failed"


def _recent(running: _Running, output: StepOutput) -> RecentRequest:
    counts = output.counts or SpeculationCounts()
    return RecentRequest(
        output.request_id,
        running.tenant,
        running.segment,
        output.drafter_version or PLAIN,
        time.time_ns() // 1_000_000,
        running.prompt_tokens,
        counts.committed,
        counts.steps,
        int(1e6 * (running.first_s - running.asked_s)),
        int(1e6 * (running.last_s - running.asked_s)),
    )
