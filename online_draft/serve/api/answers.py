"""The JSON of answers and stream chunks, as OpenAI shapes it. Plain dicts: this runs once a step."""

from __future__ import annotations

from typing import Any

from online_draft.core import FinishReason, StepOutput
from online_draft.serve.api.jobs import Choice, Job


def envelope(job: Job, model: str, fingerprint: str, chunk: bool) -> dict[str, Any]:
    """What every answer and chunk of a job starts with."""
    kind = "chat.completion" if job.is_chat else "text_completion"
    return {
        "id": job.id,
        "object": f"{kind}.chunk" if chunk and job.is_chat else kind,
        "created": job.created,
        "model": model,
        "system_fingerprint": fingerprint,
    }


def full_answer(job: Job, head: dict[str, Any]) -> dict[str, Any]:
    """The answer of a call that doesn't stream."""
    answer = {
        **head,
        "choices": [_full_choice(job, index, choice) for index, choice in enumerate(job.choices)],
        "usage": job.usage(),
    }
    if job.body.return_token_ids and job.is_chat:
        answer["prompt_token_ids"] = list(job.choices[0].request.prompt_ids)
    if job.body.metrics:
        answer["metrics"] = job.metrics()
    return answer


def _full_choice(job: Job, index: int, choice: Choice) -> dict[str, Any]:
    shape: dict[str, Any] = {"index": index, "finish_reason": choice.finish_reason, "logprobs": None}
    if job.is_chat:
        shape["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
    else:
        shape["text"] = choice.text
    if job.body.return_token_ids:
        shape["token_ids"] = choice.token_ids
        if not job.is_chat:
            shape["prompt_token_ids"] = list(choice.request.prompt_ids)
    return shape


def role_chunk(job: Job, head: dict[str, Any]) -> dict[str, Any]:
    """The first chunk of a chat stream: who speaks, in every choice."""
    delta = {"role": "assistant", "content": "", "refusal": None}
    choices = [
        {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}
        for index in range(len(job.choices))
    ]
    return _with_usage(job, {**head, "choices": choices})


def step_chunk(job: Job, head: dict[str, Any], index: int, output: StepOutput) -> dict[str, Any]:
    """The chunk of one engine step of one choice."""
    finish: FinishReason | None = output.finish_reason
    shape: dict[str, Any] = {"index": index, "finish_reason": finish, "logprobs": None}
    if job.is_chat:
        shape["delta"] = {"content": output.text} if output.text else {}
    else:
        shape["text"] = output.text
    if job.body.return_token_ids:
        shape["token_ids"] = list(output.token_ids)
    chunk = _with_usage(job, {**head, "choices": [shape]})
    if job.body.metrics and all(choice.finish_reason for choice in job.choices):
        chunk["metrics"] = job.metrics()
    return chunk


def usage_chunk(job: Job, head: dict[str, Any]) -> dict[str, Any]:
    """The last chunk when the client asked for usage."""
    return {**head, "choices": [], "usage": job.usage()}


def _with_usage(job: Job, chunk: dict[str, Any]) -> dict[str, Any]:
    if job.wants_usage_event:
        chunk["usage"] = None
    return chunk
