"""What one API call asks for: its sequences, and what came back for each."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from online_draft.core import (
    DEFAULT_TENANT,
    MIN_TEMPERATURE,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    SpeculationCounts,
    StepOutput,
)
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.schemas import SEED_BOUND, ChatBody, CompletionBody, GenerationBody

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default length of a completion; a chat answer may use what the context leaves."""


@dataclass(slots=True)
class Choice:
    """One sequence as it grows: `request` is what was asked, the rest what came back."""

    request: GenerationRequest
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    step_lengths: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    counts: SpeculationCounts = field(default_factory=SpeculationCounts)
    drafter_version: str | None = None

    def take(self, output: StepOutput) -> None:
        """Add one step."""
        self.text += output.text
        self.token_ids += output.token_ids
        if output.token_ids:
            self.step_lengths.append(len(output.token_ids))
        self.finish_reason = output.finish_reason
        self.counts = output.counts or self.counts
        self.drafter_version = output.drafter_version or self.drafter_version


@dataclass(frozen=True, slots=True)
class Job:
    """One API call: `choices[i]` answers the request's choice i (prompt-major, then n)."""

    id: str
    created: int
    body: GenerationBody
    seed: int
    choices: list[Choice]
    is_chat: bool

    @property
    def streams(self) -> bool:
        """Whether the client wants events."""
        return bool(self.body.stream)

    @property
    def wants_usage_event(self) -> bool:
        """Whether a stream ends in a usage event."""
        options = self.body.stream_options
        return options is not None and options.include_usage

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object. A prompt counts once, however many choices it has."""
        prompts = {choice.request.prompt_index: len(choice.request.prompt_ids) for choice in self.choices}
        prompt_tokens = sum(prompts.values())
        completion_tokens = sum(len(choice.token_ids) for choice in self.choices)
        accepted = sum(choice.counts.accepted_tokens for choice in self.choices)
        drafted = sum(choice.counts.drafted for choice in self.choices)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "completion_tokens_details": {
                "accepted_prediction_tokens": accepted,
                "rejected_prediction_tokens": drafted - accepted,
            },
        }

    def metrics(self) -> dict[str, Any]:
        """The `metrics` extra: counts of every choice, the seed and the drafter versions."""
        return {
            "speculative_decoding": {
                "seed": self.seed,
                "choices": [
                    {
                        "index": index,
                        "drafter_version": choice.drafter_version,
                        "steps": choice.counts.steps,
                        "committed": choice.counts.committed,
                        "drafted": choice.counts.drafted,
                        "tried": list(choice.counts.tried),
                        "accepted": list(choice.counts.accepted),
                        "mean_acceptance_length": choice.counts.committed / max(1, choice.counts.steps),
                        "step_lengths": choice.step_lengths,
                    }
                    for index, choice in enumerate(self.choices)
                ],
            }
        }


def plan_chat(body: ChatBody, encoder: PromptEncoder, segment_header: str | None) -> Job:
    """Encode a conversation and lay out its sequences. CPU-bound; raises RequestError."""
    roles = {"developer": "system"}
    messages = [(roles.get(message.role, message.role), message.text()) for message in body.messages]
    max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return _plan(body, [encoder.chat(messages)], max_tokens, encoder, "messages", segment_header)


def plan_completion(body: CompletionBody, encoder: PromptEncoder, segment_header: str | None) -> Job:
    """Encode prompts and lay out their sequences. CPU-bound; raises RequestError."""
    prompts = [
        encoder.text(prompt) if isinstance(prompt, str) else encoder.ids(prompt) for prompt in body.prompt
    ]
    max_tokens = body.max_tokens if body.max_tokens is not None else COMPLETION_MAX_TOKENS
    return _plan(body, prompts, max_tokens, encoder, "prompt", segment_header)


def _plan(
    body: GenerationBody,
    prompts: list[list[int]],
    max_tokens: int | None,
    encoder: PromptEncoder,
    param: str,
    segment_header: str | None,
) -> Job:
    is_chat = param == "messages"
    job_id = ("chatcmpl-" if is_chat else "cmpl-") + secrets.token_hex(12)
    seed = secrets.randbits(53) if body.seed is None else body.seed % SEED_BOUND
    segment = body.segment(segment_header)
    learn = body.store is not False
    choices = []
    for prompt_index, prompt_ids in enumerate(prompts):
        sampling = SamplingParams(
            temperature=_temperature(body.temperature),
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=max(0, body.top_k or 0),
            max_tokens=encoder.check_room(len(prompt_ids), max_tokens, param),
            stop=tuple(body.stop or ()),
            stop_token_ids=tuple(body.stop_token_ids or ()),
            ignore_eos=bool(body.ignore_eos),
            seed=seed,
            min_p=body.min_p or 0.0,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
            logit_bias=tuple((body.logit_bias or {}).items()),
            min_tokens=body.min_tokens or 0,
        )
        sampling.check(encoder.vocab_size)
        for choice_index in range(body.n or 1):
            request = GenerationRequest(
                request_id=f"{job_id}-{prompt_index}-{choice_index}",
                prompt_ids=tuple(prompt_ids),
                sampling=sampling,
                prompt_index=prompt_index,
                choice_index=choice_index,
                speculate=body.speculate is not False,
                tenant=DEFAULT_TENANT,
                segment=segment,
                learn=learn,
            )
            choices.append(Choice(request))
    return Job(job_id, int(time.time()), body, seed, choices, is_chat)


def _temperature(value: float | None) -> float:
    """1 by default; what is neither 0 nor as much as the smallest temperature becomes that, as in vLLM."""
    if value is None:
        return 1.0
    return max(value, MIN_TEMPERATURE) if value > 0 else 0.0
