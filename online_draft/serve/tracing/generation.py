"""The span of one generation in the ingress, with the attributes of the GenAI semantic conventions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from online_draft.tracing import SERVICE, tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from online_draft.serve.api.jobs import Job


def begin_generation(job: Job, model: str) -> Span | None:
    """Start the job's span below the current one and give its requests to the replica as children of it.

    None while traces are off, or where this one isn't sampled. No text is in it.
    """
    makes = tracer()
    if makes is None:
        return None
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    operation = "chat" if job.is_chat else "text_completion"
    span = makes.start_span(f"{operation} {model}", attributes=_asked(job, model, operation))
    if not span.is_recording():
        return None
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    for choice in job.choices:
        choice.request = replace(choice.request, trace=carrier["traceparent"])
    return span


def end_generation(span: Span | None, job: Job, first_after: float | None) -> None:
    """End it with what came of the job; `first_after` seconds until a stream's first tokens."""
    if span is None:
        return
    span.set_attributes(
        {
            "gen_ai.usage.input_tokens": job.prompt_tokens,
            "gen_ai.usage.output_tokens": sum(len(choice.token_ids) for choice in job.choices),
            "gen_ai.response.finish_reasons": [choice.finish_reason or "cancelled" for choice in job.choices],
        }
    )
    if first_after is not None:
        span.set_attribute("gen_ai.response.time_to_first_chunk", first_after)
    span.end()


def _asked(job: Job, model: str, operation: str) -> dict[str, Any]:
    sampling = job.choices[0].request.sampling
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": SERVICE,
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "gen_ai.response.id": job.id,
        "gen_ai.output.type": "text",
        "gen_ai.request.choice.count": len(job.choices),
        "gen_ai.request.stream": job.streams,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
    }
