"""Request bodies of the generation routes, as OpenAI and vLLM name their fields."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)

from online_draft.core import DEFAULT_SEGMENT
from online_draft.errors import RequestError
from online_draft.serve.api.fields import (
    INT_BOUND,
    MAX_CHOICES,
    MAX_PRIORITY,
    MAX_STOP_IDS,
    MAX_STOPS,
    SEED_BOUND,
    Biases,
    Logprobs,
    Number,
    Penalty,
    Prompts,
    PromptText,
    Stops,
    StopText,
    Token,
    TokenIds,
    clash,
)
from online_draft.serve.api.messages import ChatTemplateOptions, Message

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}")


_INTEGERS = {
    *("n", "seed", "top_k", "max_tokens", "max_completion_tokens", "min_tokens", "priority"),
    *("logprobs", "top_logprobs", "prompt_logprobs"),
}


class StreamOptions(BaseModel):
    """Options of a streamed answer. `continuous_usage_stats` (vLLM's) needs `include_usage`."""

    include_usage: StrictBool | None = None
    continuous_usage_stats: StrictBool | None = None


MAX_SESSION = 256
"""Characters of a session's name; what is behind them doesn't count."""


class GenerationBody(BaseModel):
    """What both routes accept. Fields of other servers that change nothing here end in `model_extra`."""

    model_config = ConfigDict(extra="allow")

    model: StrictStr
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=-1, le=INT_BOUND)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[Number, Field(ge=0.01, le=100)] | None = None
    logit_bias: Biases | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1, le=INT_BOUND)] | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0, le=INT_BOUND)] | None = None
    seed: Annotated[StrictInt, Field(ge=-SEED_BOUND, lt=SEED_BOUND)] | None = None
    stop: Stops | None = None
    stop_token_ids: Annotated[list[Token], Field(max_length=MAX_STOP_IDS)] | None = None
    ignore_eos: StrictBool | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    store: StrictBool | None = None
    metadata: dict[str, Any] | None = None
    user: Any = None
    prompt_logprobs: Logprobs | None = None
    """vLLM's: log-probabilities of the prompt's tokens, and of so many likely ones. Not in streams."""
    priority: Annotated[StrictInt, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] | None = None
    """vLLM's: lower comes first, 0 by default."""
    return_token_ids: StrictBool | None = None
    """vLLM's: true adds the token ids of prompt and answer."""
    return_tokens_as_token_ids: StrictBool | None = None
    """vLLM's: tokens of log-probabilities are called `token_id:ID`."""
    deadline_s: Annotated[Number, Field(gt=0, le=86_400)] | None = None
    """Ours: seconds after which the answer ends where it is, with finish reason "abort"."""
    speculate: StrictBool | None = None
    """Ours: false decodes plainly, one token a step. The output is the same."""
    metrics: StrictBool | None = None
    """Ours: true adds `metrics.speculative_decoding` to the answer (counts, drafter version, seed)."""

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, body: Any) -> Any:
        """JSON doesn't tell 8.0 from 8, and some clients write the one for the other."""
        if not isinstance(body, dict):
            return body
        whole = {name: body[name] for name in _INTEGERS & body.keys() if isinstance(body[name], float)}
        return {**body, **{name: int(value) for name, value in whole.items() if value.is_integer()}}

    @field_validator("stop", mode="before", json_schema_input_type=StopText | Stops | None)
    @classmethod
    def _stops_as_list(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str | list):
            raise ValueError(f"must be a string or a list of up to {MAX_STOPS} strings")
        return [value] if isinstance(value, str) else value

    @property
    @abstractmethod
    def token_logprobs(self) -> int | None:
        """How many likely tokens are wanted beside each chosen one; None for no log-probabilities."""

    def check(self) -> None:
        """Raise `RequestError` for parameters that don't go together."""
        if self.stream_options is not None and not self.stream:
            raise clash("stream_options", "only with stream: true")
        if self.prompt_logprobs is not None and self.stream:
            raise clash("prompt_logprobs", "not in streams; leave out stream")

    def segment(self, header: str | None) -> str:
        """The traffic segment: `metadata.segment`, else the `X-Segment` header, else the default."""
        value = (self.metadata or {}).get("segment", header)
        if value is None:
            return DEFAULT_SEGMENT
        if not isinstance(value, str) or not _SEGMENT.fullmatch(value):
            raise RequestError(
                "metadata.segment: 1 to 64 of A-Z a-z 0-9 _ . : / -, starting with a letter or digit",
                param="metadata.segment",
                code="invalid_value",
            )
        return value

    def session(self, header: str | None) -> str | None:
        """What names the conversation: the header `X-Session-Id`, else `prompt_cache_key`, else `user`."""
        named = (header, (self.model_extra or {}).get("prompt_cache_key"), self.user)
        given = next((name for name in named if isinstance(name, str) and name), None)
        return None if given is None else given[:MAX_SESSION]


class ChatBody(GenerationBody, ChatTemplateOptions):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1, le=INT_BOUND)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Logprobs | None = None

    @property
    def token_logprobs(self) -> int | None:
        """As `logprobs` and `top_logprobs` say."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check(self) -> None:
        """Raise `RequestError` for parameters that don't go together."""
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise clash("top_logprobs", "only with logprobs: true")
        for name in ("echo", "add_special_tokens"):
            if (self.model_extra or {}).get(name) not in (None, False):
                raise RequestError(
                    f"{name}: not supported in chats; use /v1/completions", name, "unsupported_parameter"
                )


class CompletionBody(GenerationBody):
    """Body of `/v1/completions`: a text, a list of texts, token ids, or a list of token id lists.

    `max_tokens: 0` is for `echo` alone, to have a prompt's log-probabilities.
    """

    prompt: Prompts
    max_tokens: Annotated[StrictInt, Field(ge=0, le=INT_BOUND)] | None = None
    logprobs: Logprobs | None = None
    """Up to 20, where OpenAI stops at 5."""
    echo: StrictBool | None = None
    add_special_tokens: StrictBool | None = None
    """vLLM's: false leaves out what the tokenizer puts around every text."""

    @field_validator(
        "prompt",
        mode="before",
        json_schema_input_type=PromptText | TokenIds | Prompts,
    )
    @classmethod
    def _prompt_as_list(cls, value: Any) -> Any:
        if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
            return [value]
        return value

    @property
    def token_logprobs(self) -> int | None:
        """As `logprobs` says."""
        return self.logprobs

    def check(self) -> None:
        """Raise `RequestError` for parameters that don't go together."""
        super().check()
        if self.max_tokens == 0 and not self.echo:
            raise RequestError(
                "max_tokens: must be at least 1; 0 only with echo: true", "max_tokens", "invalid_value"
            )
