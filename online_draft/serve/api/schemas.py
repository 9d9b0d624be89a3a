"""Request bodies of the two generation routes, as OpenAI and vLLM name their fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator

from online_draft.core import DEFAULT_SEGMENT
from online_draft.errors import RequestError

MAX_CHOICES = 16
MAX_PROMPTS = 64
MAX_STOPS = 16
MAX_BIASES = 1024
SEED_BOUND = 2**63

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}")

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(strict=True)]
TokenIds = Annotated[list[StrictInt], Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0)]
Bias = Annotated[Number, Field(ge=-100, le=100)]
Penalty = Annotated[Number, Field(ge=-2, le=2)]
StopText = Annotated[str, Field(strict=True, min_length=1, max_length=256)]

_OFF: tuple[Any, ...] = (None, False, [], {}, 0, "none", "auto")
_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": (_OFF, "tool calls are not supported; describe the tool in a message instead"),
    "tool_choice": (_OFF, "tool calls are not supported"),
    "functions": (_OFF, "function calls are not supported"),
    "function_call": (_OFF, "function calls are not supported"),
    "response_format": ((None, {"type": "text"}), "only {'type': 'text'} is supported"),
    "logprobs": ((None, False), "log probabilities are not supported"),
    "top_logprobs": ((None, 0), "log probabilities are not supported"),
    "prompt_logprobs": ((None, False), "log probabilities are not supported"),
    "audio": ((None,), "audio is not supported"),
    "modalities": ((None, ["text"]), "only ['text'] is supported"),
    "prediction": ((None,), "predicted outputs are not supported; drafts are made by the server itself"),
    "web_search_options": ((None,), "web search is not supported"),
    "suffix": ((None, ""), "suffix is not supported; put the context into the prompt"),
    "echo": ((None, False), "echo is not supported; prepend the prompt yourself"),
    "best_of": ((None, 1), "best_of is not supported; use n and choose yourself"),
    "use_beam_search": ((None, False), "beam search is not supported"),
    "guided_json": ((None,), "grammars are not supported"),
    "guided_regex": ((None,), "grammars are not supported"),
    "guided_choice": ((None,), "grammars are not supported"),
    "guided_grammar": ((None,), "grammars are not supported"),
    "structured_outputs": ((None,), "grammars are not supported"),
}


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: StrictBool = False


class TextPart(BaseModel):
    """A piece of a message; only text is supported."""

    type: Literal["text"]
    text: StrictStr


class Message(BaseModel):
    """One turn of a conversation. `developer` is an instruction like `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: list[TextPart]

    @field_validator("content", mode="before")
    @classmethod
    def _content_as_parts(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    def text(self) -> str:
        """The content as one string."""
        return "".join(part.text for part in self.content)


class GenerationBody(BaseModel):
    """What both routes accept. Fields of other servers that change nothing here end in `model_extra`."""

    model_config = ConfigDict(extra="allow")

    model: StrictStr
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=-1)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[Number, Field(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MAX_BIASES)] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    min_tokens: Annotated[StrictInt, Field(ge=0)] | None = None
    seed: Annotated[StrictInt, Field(ge=-SEED_BOUND, lt=SEED_BOUND)] | None = None
    stop: Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    stop_token_ids: Annotated[list[StrictInt], Field(max_length=MAX_STOPS)] | None = None
    ignore_eos: StrictBool | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    store: StrictBool | None = None
    metadata: dict[str, Any] | None = None
    user: Any = None
    speculate: StrictBool | None = None
    """Ours: false decodes plainly, one token a step. The output is the same."""
    metrics: StrictBool | None = None
    """Ours: true adds `metrics.speculative_decoding` to the answer (counts, drafter version, seed)."""
    return_token_ids: StrictBool | None = None
    """vLLM's: true adds the token ids of prompt and answer."""

    @field_validator("stop", mode="before")
    @classmethod
    def _stops_as_list(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str | list):
            raise ValueError(f"must be a string or a list of up to {MAX_STOPS} strings")
        return [value] if isinstance(value, str) else value

    def refuse_unsupported(self) -> None:
        """Raise `RequestError` naming the first parameter whose effect we can't deliver."""
        for name, value in (self.model_extra or {}).items():
            if name in _UNSUPPORTED:
                harmless, reason = _UNSUPPORTED[name]
                if not any(
                    value == ok and isinstance(value, bool) == isinstance(ok, bool) for ok in harmless
                ):
                    raise RequestError(f"{name}: {reason}", param=name, code="unsupported_parameter")

    def ignored(self) -> list[str]:
        """Parameters that nobody here knows, fit for a header."""
        names = (re.sub(r"[^A-Za-z0-9_.-]", "?", name)[:40] for name in self.model_extra or {})
        return sorted(name for name in names if name not in _UNSUPPORTED)[:20]

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


class ChatBody(GenerationBody):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None


class CompletionBody(GenerationBody):
    """Body of `/v1/completions`: a text, a list of texts, token ids, or a list of token id lists."""

    prompt: Annotated[list[Text | TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompt_as_list(cls, value: Any) -> Any:
        if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
            return [value]
        return value
