"""The API with traces on: a span for the request, one for the generation, and what goes on to the replica."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `otel` is not installed")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder

TRACE = "0af7651916cd43dd8448eb211c80319c"
BODY = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "my secret"}],
    "temperature": 0.5,
    "seed": 3,
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_is_traced_to_the_replica(
    spans: InMemorySpanExporter, backend: Any, encoder: PromptEncoder, stream: bool
) -> None:
    transport = httpx.ASGITransport(app=build_app(backend, encoder, Model("tiny", "f")))
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as http:
        answer = await http.post("/v1/chat/completions", json={**BODY, "stream": stream})
        assert answer.status_code == 200
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"}
        await http.post("/v1/chat/completions", json=BODY, headers=headers)
    generation, request = spans.get_finished_spans()
    assert (generation.name, request.name) == ("chat tiny", "POST /v1/chat/completions")
    assert {format_trace_id(span.context.trace_id) for span in (generation, request)} == {TRACE}
    assert generation.parent is not None and generation.parent.span_id == request.context.span_id
    told = generation.attributes or {}
    assert (told["gen_ai.operation.name"], told["gen_ai.request.model"]) == ("chat", "tiny")
    assert (told["gen_ai.request.temperature"], told["gen_ai.request.seed"]) == (0.5, 3)
    assert (told["gen_ai.usage.output_tokens"], told["gen_ai.response.finish_reasons"]) == (4, ("stop",))
    assert ("gen_ai.response.time_to_first_chunk" in told) == stream
    sampled, unsampled = (asked.trace for asked in backend.seen)
    assert sampled == f"00-{TRACE}-{format_span_id(generation.context.span_id)}-01" and unsampled is None
    assert "secret" not in generation.to_json() + request.to_json()
    assert " three" not in generation.to_json() + request.to_json()
