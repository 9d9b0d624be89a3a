"""Traces on and off by the environment, spans from HTTP to decode with one trace id, and no text in them."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otel` is not installed")

from fastapi import FastAPI, Request
from httpx import ASGITransport, AsyncClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from online_draft import tracing
from online_draft.core import GenerationRequest, SamplingParams, SpeculationCounts, StepOutput
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.errors import CapacityError
from online_draft.monitor.rollups.board import RollupBoard
from online_draft.monitor.rollups.traffic_meter import TrafficMeter
from online_draft.serve.tracing.http import TracedRequests
from online_draft.serve.tracing.meter import TracingMeter, meter_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.parametrize(
    ("environment", "exporter"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_the_environment_switches_traces_on(environment: dict[str, str], exporter: str | None) -> None:
    assert tracing.wanted(environment) == exporter


def test_an_exporter_is_set_up_and_closed() -> None:
    tracing.set_up_tracing("test", {"OTEL_TRACES_EXPORTER": "console"})
    assert tracing.tracer() is not None
    tracing.shut_down_tracing()
    tracing.set_up_tracing("test", {})
    assert tracing.tracer() is None and type(meter_of(RollupBoard("r"))) is TrafficMeter


def test_a_missing_extra_is_said_and_nothing_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setattr(logging.getLogger("online_draft"), "propagate", True)
    tracing.set_up_tracing("test", {"OTEL_TRACES_EXPORTER": "otlp"})
    assert tracing.tracer() is None and "online-draft[otel]" in caplog.text


async def test_http_spans_follow_the_callers_trace(spans: InMemorySpanExporter) -> None:
    app = FastAPI()

    @app.get("/things/{name}")
    async def things(name: str, request: Request) -> dict[str, str]:
        return {"name": name}

    app.get("/health")(lambda: {})
    app.add_middleware(TracedRequests, tracer=tracing.tracer())
    async with AsyncClient(transport=ASGITransport(app=app), base_url="http://test") as http:
        await http.get("/things/secret?q=hidden", headers={"traceparent": PARENT})
        await http.get("/health", headers={"traceparent": PARENT})
        await http.get("/things/x", headers={"traceparent": PARENT[:-1] + "0"})  # not sampled
    (span,) = spans.get_finished_spans()
    assert span.name == "GET /things/{name}" and span.parent is not None and span.attributes is not None
    assert format_trace_id(span.context.trace_id) == TRACE
    assert format_span_id(span.parent.span_id) == "b7ad6b7169203331"
    assert span.attributes["http.response.status_code"] == 200
    assert "hidden" not in str(span.to_json())


def request_of(name: str, trace: str | None = PARENT) -> GenerationRequest:
    return GenerationRequest(name, (1, 2, 3), SamplingParams(max_tokens=4, ignore_eos=True), trace=trace)


def test_a_request_that_ends_has_queue_prefill_and_decode(spans: InMemorySpanExporter) -> None:
    meter = meter_of(RollupBoard("r"))
    assert isinstance(meter, TracingMeter)
    meter.begin(request_of("a"), 0.0)
    meter.begin(request_of("b", trace=None), 0.0)
    for name in ("a", "b", "unknown"):
        meter.admitted(name)
    counts = SpeculationCounts(steps=2, committed=4, drafted=8, tried=[2], accepted=[2])
    for name in ("a", "b"):
        meter.step(StepOutput(name, (7,), "secret"))
        meter.step(StepOutput(name, (8, 9, 10), "secret", "length", counts, "v1"))
    found = by_name(spans)
    assert list(found) == ["queue", "prefill", "decode"]
    queue, prefill, decode = found.values()
    assert queue.end_time == prefill.start_time and prefill.end_time == decode.start_time
    assert {format_trace_id(span.context.trace_id) for span in found.values()} == {TRACE}
    assert decode.attributes is not None and decode.attributes["gen_ai.usage.output_tokens"] == 4
    assert decode.attributes["online_draft.drafted_tokens"] == 8
    assert "secret" not in "".join(span.to_json() for span in found.values())


def test_a_request_that_is_refused_or_cancelled_has_what_it_reached(spans: InMemorySpanExporter) -> None:
    meter = meter_of(RollupBoard("r"))
    assert isinstance(meter, TracingMeter)
    meter.begin(request_of("a"), 0.0)
    meter.end("a", CapacityError("full"))
    meter.begin(request_of("b"), 0.0)
    meter.admitted("b")
    meter.end("b")
    names = [
        (span.name, (span.attributes or {}).get("gen_ai.response.finish_reasons"))
        for span in spans.get_finished_spans()
    ]
    assert names == [("queue", ("CapacityError",)), ("queue", None), ("prefill", ("cancelled",))]


def test_an_engine_says_whom_it_admits(traffic: Any) -> None:
    engine = Engine(traffic.loaded, EngineConfig(max_sequences=1, max_queue=4, kernels="off"))
    admitted: list[str] = []
    engine.on_admission = admitted.append
    for name in ("first", "second"):
        engine.add(request_of(name))
    engine.step()
    assert admitted == ["first"]
    while engine.has_work:
        engine.step()
    assert admitted == ["first", "second"]
