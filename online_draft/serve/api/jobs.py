"""What one API call asks for: its sequences, and what came back for each."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from online_draft.core import DEFAULT_TENANT, MIN_TEMPERATURE, GenerationRequest, SamplingParams
from online_draft.serve.api.choice import Choice
from online_draft.serve.api.fields import SEED_BOUND
from online_draft.serve.api.logprobs import LogprobShapes
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.schemas import ChatBody, CompletionBody, GenerationBody

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default length of a completion; a chat answer may use what the context leaves."""


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom a call is made. The body's `priority` is added to theirs, but may not make them more urgent
    (lower) unless `may_hurry`; `learn` is consent. `models` are those that they may use; None: all."""

    tenant: str = DEFAULT_TENANT
    priority: int = 0
    learn: bool = True
    may_hurry: bool = True
    models: frozenset[str] | None = None

    def may_use(self, names: Iterable[str]) -> bool:
        """Whether a model of these names is for them."""
        return self.models is None or not self.models.isdisjoint(names)

    def priority_of(self, asked: int | None) -> int:
        """The priority of a call whose body asks for one."""
        return self.priority + (asked or 0 if self.may_hurry else max(0, asked or 0))


ANYONE = Caller()


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Whose request an ASGI scope is of, anybody's where nothing asks for keys."""
    caller: Caller = scope.get("state", {}).get("caller", ANYONE)
    return caller


@dataclass(frozen=True, slots=True)
class Labels:
    """What headers say about a request: its `X-Segment` and `X-Session-Id`."""

    segment: str | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One API call: `choices[i]` answers the request's choice i (prompt-major, then n)."""

    id: str
    created: int
    body: GenerationBody
    seed: int
    choices: list[Choice]
    is_chat: bool
    shapes: LogprobShapes
    span: Any = None
    """Its span, where it is traced."""

    @property
    def streams(self) -> bool:
        """Whether the client wants events."""
        return bool(self.body.stream)

    @property
    def wants_usage_event(self) -> bool:
        """Whether a stream ends in a usage event."""
        options = self.body.stream_options
        return options is not None and bool(options.include_usage)

    @property
    def wants_running_usage(self) -> bool:
        """Whether every event tells the usage so far."""
        options = self.body.stream_options
        return self.wants_usage_event and options is not None and bool(options.continuous_usage_stats)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts. A prompt counts once, however many choices it has."""
        prompts = {choice.request.prompt_index: len(choice.request.prompt_ids) for choice in self.choices}
        return sum(prompts.values())

    def usage(self, nothing_yet: bool = False) -> dict[str, Any]:
        """OpenAI's usage object, up to now or, with `nothing_yet`, before the first step."""
        prompt_tokens = self.prompt_tokens
        completion_tokens = 0 if nothing_yet else sum(len(choice.token_ids) for choice in self.choices)
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


def plan_chat(body: ChatBody, encoder: PromptEncoder, labels: Labels, caller: Caller) -> Job:
    """Encode a conversation and lay out its sequences. CPU-bound; raises RequestError."""
    prompt_ids = encoder.chat(
        [message.turn() for message in body.messages],
        body.opens_answer,
        bool(body.continue_final_message),
        body.chat_template_kwargs,
    )
    max_tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return _plan(body, [prompt_ids], [None], max_tokens, encoder, labels, caller)


def plan_completion(body: CompletionBody, encoder: PromptEncoder, labels: Labels, caller: Caller) -> Job:
    """Encode prompts and lay out their sequences. CPU-bound; raises RequestError."""
    special = body.add_special_tokens is not False
    prompts = [
        encoder.text(prompt, special) if isinstance(prompt, str) else encoder.ids(prompt)
        for prompt in body.prompt
    ]
    echoes: list[str | None] = [None] * len(prompts)
    if body.echo:
        echoes = [
            given if isinstance(given, str) else encoder.vocabulary.decode(ids)
            for given, ids in zip(body.prompt, prompts, strict=True)
        ]
    max_tokens = body.max_tokens if body.max_tokens is not None else COMPLETION_MAX_TOKENS
    return _plan(body, prompts, echoes, max_tokens, encoder, labels, caller)


def _plan(
    body: GenerationBody,
    prompts: list[list[int]],
    echoes: list[str | None],
    max_tokens: int | None,
    encoder: PromptEncoder,
    labels: Labels,
    caller: Caller,
) -> Job:
    is_chat = isinstance(body, ChatBody)
    job_id = ("chatcmpl-" if is_chat else "cmpl-") + secrets.token_hex(12)
    seed = secrets.randbits(53) if body.seed is None else body.seed % SEED_BOUND
    segment, session = body.segment(labels.segment), body.session(labels.session)
    only_prompt = max_tokens == 0
    choices = []
    for prompt_index, (prompt_ids, echo) in enumerate(zip(prompts, echoes, strict=True)):
        room = encoder.check_room(
            len(prompt_ids), 1 if only_prompt else max_tokens, "messages" if is_chat else "prompt"
        )
        sampling = _sampling(body, room, seed, echo is not None)
        sampling.check(encoder.vocab_size)
        for choice_index in range(body.n or 1):
            request = GenerationRequest(
                request_id=f"{job_id}-{prompt_index}-{choice_index}",
                prompt_ids=tuple(prompt_ids),
                sampling=sampling,
                prompt_index=prompt_index,
                choice_index=choice_index,
                speculate=body.speculate is not False,
                tenant=caller.tenant,
                segment=segment,
                learn=caller.learn and body.store is not False,
                priority=caller.priority_of(body.priority),
                deadline_s=body.deadline_s,
                session=session,
            )
            choices.append(Choice(request, echo, only_prompt))
    shapes = LogprobShapes(encoder.vocabulary, bool(body.return_tokens_as_token_ids))
    return Job(job_id, int(time.time()), body, seed, choices, is_chat, shapes)


def _sampling(body: GenerationBody, max_tokens: int, seed: int, echo: bool) -> SamplingParams:
    logprobs, prompt_logprobs = body.token_logprobs, body.prompt_logprobs
    if echo and logprobs is not None:
        prompt_logprobs = max(logprobs, prompt_logprobs or 0)
    return SamplingParams(
        temperature=_temperature(body.temperature),
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(0, body.top_k or 0),
        max_tokens=max_tokens,
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
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _temperature(value: float | None) -> float:
    """1 by default; what is neither 0 nor as much as the smallest temperature becomes that, as in vLLM."""
    if value is None:
        return 1.0
    return max(value, MIN_TEMPERATURE) if value > 0 else 0.0
