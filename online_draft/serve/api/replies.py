"""The shapes of answers, for the OpenAPI document. Answers themselves are built as plain dicts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length", "abort"]


class Reply(BaseModel):
    """Nothing but the fields that are named."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Reply):
    """`param` is the field as the client named it, `code` fit for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Reply):
    """OpenAI's error shape; in streams the last event before `[DONE]`."""

    error: ErrorDetail


class PredictionTokens(Reply):
    """Drafted tokens."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(Reply):
    """A prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: PredictionTokens


class ChoiceSpeculation(Reply):
    """Counts of one choice; `tried` and `accepted` by depth, one entry of `step_lengths` per step."""

    index: int
    drafter_version: str | None
    steps: int
    committed: int
    drafted: int
    tried: list[int]
    accepted: list[int]
    mean_acceptance_length: float
    step_lengths: list[int]


class Speculation(Reply):
    """vLLM's totals, over all choices, and ours."""

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int
    per_step_drafted: list[int] | None
    per_step_accepted: list[int] | None
    seed: int
    choices: list[ChoiceSpeculation]


class Metrics(Reply):
    """The `metrics` extra."""

    speculative_decoding: Speculation


class PromptLogprob(Reply):
    """A token at a place of the prompt; rank 1 is the likeliest."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


class TopLogprob(Reply):
    """A likely token. `bytes` are the token's own, `token` escapes those that are no characters."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A chosen token."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Reply):
    """One entry per token."""

    content: list[TokenLogprob]
    refusal: None


class ChatMessage(Reply):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Reply):
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: FinishReason
    stop_reason: int | str | None
    logprobs: ChatLogprobs | None
    token_ids: list[int] | None = None


class ChatCompletion(Reply):
    """The answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: PromptLogprobs | None = None
    metrics: Metrics | None = None


class ChatDelta(Reply):
    """What an event adds."""

    role: Literal["assistant"] | None = None
    content: str
    refusal: None = None


class ChatChunkChoice(Reply):
    """One engine step of one choice."""

    index: int
    delta: ChatDelta
    finish_reason: FinishReason | None
    stop_reason: int | str | None = None
    logprobs: ChatLogprobs | None
    token_ids: list[int] | None = None


class ChatChunk(Reply):
    """An event of a streamed `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None
    metrics: Metrics | None = None


class CompletionLogprobs(Reply):
    """Lists with one entry per token; with `echo` the prompt's come first, its first without values."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Reply):
    """One text."""

    index: int
    text: str
    finish_reason: FinishReason
    stop_reason: int | str | None
    logprobs: CompletionLogprobs | None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: PromptLogprobs | None = None


class Completion(Reply):
    """The answer of `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
    metrics: Metrics | None = None


class CompletionChunkChoice(Reply):
    """One engine step of one choice."""

    index: int
    text: str
    finish_reason: FinishReason | None
    stop_reason: int | str | None = None
    logprobs: CompletionLogprobs | None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class CompletionChunk(Reply):
    """An event of a streamed `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChunkChoice]
    usage: Usage | None = None
    metrics: Metrics | None = None


class ModelCard(Reply):
    """A model under one of its names, as OpenAI and vLLM describe it. `root` is its own name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int
    aliases: list[str]
    fingerprint: str


class ModelList(Reply):
    """All of them."""

    object: Literal["list"]
    data: list[ModelCard]


class TokenizeReply(Reply):
    """`token_strs` only if they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeReply(Reply):
    """The text, special tokens included."""

    prompt: str


class StatusReply(Reply):
    """Of `/health` and `/ready`."""

    status: str


class VersionReply(Reply):
    """The software's version."""

    version: str
