"""The JSON of answers and stream chunks, as OpenAI shapes it. Plain dicts: this runs once a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from online_draft.core import StepOutput, TokenLogprobs
from online_draft.serve.api.choice import Choice, speculation_metrics
from online_draft.serve.api.jobs import Job


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
    if job.is_chat:
        if job.body.return_token_ids:
            answer["prompt_token_ids"] = list(job.choices[0].request.prompt_ids)
        answer |= _prompt_logprobs(job, job.choices[0])
    if job.body.metrics:
        answer["metrics"] = speculation_metrics(job.choices, job.seed)
    return answer


def _full_choice(job: Job, index: int, choice: Choice) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "index": index,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason(job.shapes.vocabulary),
        "logprobs": _logprobs(job, choice, choice.token_ids, choice.logprobs, echo=choice.echo is not None),
    }
    if job.is_chat:
        shape["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
    else:
        shape["text"] = (choice.echo or "") + choice.text
        shape |= _prompt_logprobs(job, choice)
    if job.body.return_token_ids:
        shape["token_ids"] = choice.token_ids
        if not job.is_chat:
            shape["prompt_token_ids"] = list(choice.request.prompt_ids)
    return shape


def role_chunks(job: Job, head: dict[str, Any]) -> list[dict[str, Any]]:
    """The first chunks of a chat stream: who speaks, one for every choice."""
    delta = {"role": "assistant", "content": "", "refusal": None}
    chunks = []
    for index in range(len(job.choices)):
        choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}
        chunks.append(_with_usage(job, {**head, "choices": [choice]}, nothing_yet=True))
    if job.body.return_token_ids:
        chunks[0]["prompt_token_ids"] = list(job.choices[0].request.prompt_ids)
    return chunks


def step_chunk(job: Job, head: dict[str, Any], index: int, output: StepOutput) -> dict[str, Any]:
    """The chunk of one engine step of one choice. With `echo` a choice's first one repeats the prompt."""
    choice = job.choices[index]
    echo = choice.echo is not None and not choice.echoed
    choice.echoed = True
    shape: dict[str, Any] = {
        "index": index,
        "finish_reason": output.finish_reason,
        "logprobs": _logprobs(job, choice, output.token_ids, output.logprobs or (), echo),
    }
    if output.finish_reason is not None:
        shape["stop_reason"] = choice.stop_reason(job.shapes.vocabulary)
    if job.is_chat:
        shape["delta"] = {"content": output.text}
    else:
        shape["text"] = (choice.echo or "") + output.text if echo else output.text
    if job.body.return_token_ids:
        shape["token_ids"] = list(output.token_ids)
    chunk = _with_usage(job, {**head, "choices": [shape]})
    ended = output.finish_reason is not None and all(other.finish_reason for other in job.choices)
    if ended and job.body.metrics and not job.wants_usage_event:
        chunk["metrics"] = speculation_metrics(job.choices, job.seed)
    return chunk


def usage_chunk(job: Job, head: dict[str, Any]) -> dict[str, Any]:
    """The last chunk when the client asked for usage; metrics come with it then, as in vLLM."""
    chunk = {**head, "choices": [], "usage": job.usage()}
    if job.body.metrics:
        chunk["metrics"] = speculation_metrics(job.choices, job.seed)
    return chunk


def _with_usage(job: Job, chunk: dict[str, Any], nothing_yet: bool = False) -> dict[str, Any]:
    if job.wants_usage_event:
        chunk["usage"] = job.usage(nothing_yet) if job.wants_running_usage else None
    return chunk


def _prompt_logprobs(job: Job, choice: Choice) -> dict[str, Any]:
    """vLLM's extra, if it was asked for; `echo` asks the engine for them too."""
    top = job.body.prompt_logprobs
    return {} if top is None else {"prompt_logprobs": job.shapes.prompt(choice.prompt_logprobs or (), top)}


def _logprobs(
    job: Job, choice: Choice, token_ids: Sequence[int], entries: Sequence[TokenLogprobs], echo: bool
) -> dict[str, Any] | None:
    """Those of a step or of the whole choice; with `echo` the prompt's stand before them."""
    top = job.body.token_logprobs
    if top is None:
        return None
    if job.is_chat:
        return job.shapes.chat(entries)
    vocabulary = job.shapes.vocabulary
    if choice.offsets is None:
        choice.offsets = vocabulary.offsets(len(choice.echo or ""))
    offsets = choice.offsets.push(token_ids)
    if not echo:
        return job.shapes.completion(token_ids, entries, offsets, top)
    prompt_ids = choice.request.prompt_ids
    prompt = choice.prompt_logprobs or (None,) * len(prompt_ids)
    before = vocabulary.offsets().push(prompt_ids)
    return job.shapes.completion((*prompt_ids, *token_ids), (*prompt, *entries), (*before, *offsets), top)
