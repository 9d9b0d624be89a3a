"""The spans of a request in a replica: queue, prefill, decode. Made when it ends, from three times."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from online_draft.core import GenerationRequest, StepOutput
from online_draft.monitor.recent import RecentRequests
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.traffic_meter import TrafficMeter
from online_draft.tracing import tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


@dataclass(slots=True)
class _Stages:
    """Times of `time.perf_counter`, seconds, as they become known."""

    request: GenerationRequest
    asked: float
    admitted: float | None = None
    first: float | None = None
    tokens: int = 0


class TracingMeter(TrafficMeter):
    """A TrafficMeter that also traces the requests whose trace is sampled. `admitted` is told when the engine
    takes one out of the queue."""

    def __init__(self, board: RollupBoard, makes: Tracer, recent: RecentRequests | None = None) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        super().__init__(board, recent=recent)
        self._makes = makes
        self._propagator = TraceContextTextMapPropagator()
        self._stages: dict[str, _Stages] = {}
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()

    def begin(self, request: GenerationRequest, asked_at_s: float) -> None:
        """As TrafficMeter."""
        super().begin(request, asked_at_s)
        if request.trace is not None:
            self._stages[request.request_id] = _Stages(request, asked_at_s)

    def admitted(self, request_id: str) -> None:
        """Its prompt is computed from now on. A request that was preempted is admitted again: not counted."""
        stages = self._stages.get(request_id)
        if stages is not None and stages.admitted is None:
            stages.admitted = time.perf_counter()

    def step(self, output: StepOutput) -> None:
        """As TrafficMeter."""
        super().step(output)
        stages = self._stages.get(output.request_id)
        if stages is None:
            return
        if output.token_ids and stages.first is None:
            stages.first = time.perf_counter()
        stages.tokens += len(output.token_ids)
        if output.finish_reason is not None:
            self._finish_spans(stages, _outcome(output))

    def end(self, request_id: str, error: Exception | None = None) -> None:
        """As TrafficMeter."""
        super().end(request_id, error)
        stages = self._stages.get(request_id)
        if stages is not None:
            kind = "cancelled" if error is None else type(error).__name__
            self._finish_spans(stages, {"gen_ai.response.finish_reasons": [kind]})

    def _finish_spans(self, stages: _Stages, outcome: dict[str, Any]) -> None:
        """Those stages that were reached; the last one has the outcome."""
        request = stages.request
        del self._stages[request.request_id]
        times = [stages.asked, stages.admitted, stages.first]
        ends = [*times[1:], time.perf_counter()]
        context = self._propagator.extract({"traceparent": request.trace or ""})
        known = {"online_draft.request_id": request.request_id, "online_draft.segment": request.segment}
        for name, begun, ended in zip(("queue", "prefill", "decode"), times, ends, strict=True):
            if begun is None:
                break
            attributes: dict[str, Any] = dict(known)
            if name == "prefill":
                attributes["gen_ai.usage.input_tokens"] = len(request.prompt_ids)
            if name == "decode":
                attributes["gen_ai.usage.output_tokens"] = stages.tokens
            if name == "decode" or ended is None:
                attributes |= outcome
            span = self._makes.start_span(name, context, start_time=self._ns(begun), attributes=attributes)
            span.end(self._ns(ends[-1] if ended is None else ended))

    def _ns(self, seconds: float | None) -> int:
        assert seconds is not None
        return self._epoch_ns + int(seconds * 1e9)


def meter_of(board: RollupBoard, recent: RecentRequests | None = None) -> TrafficMeter:
    """One that traces, if this process does."""
    makes = tracer()
    return TrafficMeter(board, recent=recent) if makes is None else TracingMeter(board, makes, recent)


def _outcome(output: StepOutput) -> dict[str, Any]:
    outcome: dict[str, Any] = {"gen_ai.response.finish_reasons": [output.finish_reason]}
    if output.counts is not None:
        outcome["online_draft.steps"] = output.counts.steps
        outcome["online_draft.drafted_tokens"] = output.counts.drafted
        outcome["online_draft.accepted_tokens"] = output.counts.accepted_tokens
    if output.drafter_version is not None:
        outcome["online_draft.drafter_version"] = output.drafter_version
    return outcome
