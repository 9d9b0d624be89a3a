"""Messages, and how they become a prompt."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictStr, field_validator

from online_draft.serve.api.fields import MAX_TEMPLATE_ARGUMENTS, TemplateValue, clash


class TextPart(BaseModel):
    """A piece of a message; only text is supported."""

    type: Literal["text"]
    text: StrictStr


class Message(BaseModel):
    """One turn of a conversation. `developer` is an instruction like `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: list[TextPart]
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    @field_validator("content", mode="before", json_schema_input_type=StrictStr | list[TextPart])
    @classmethod
    def _content_as_parts(cls, value: Any) -> Any:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @field_validator("tool_calls", mode="before")
    @classmethod
    def _no_tool_calls(cls, value: Any) -> Any:
        if value not in (None, []):
            raise ValueError("tool calls are not supported; write them out in the content")
        return value

    def turn(self) -> tuple[str, str]:
        """Role, as chat templates know it, and the content as one string."""
        role = "system" if self.role == "developer" else self.role
        return role, "".join(part.text for part in self.content)


class ChatTemplateOptions(BaseModel):
    """vLLM's parameters of how a conversation becomes a prompt."""

    add_generation_prompt: StrictBool | None = None
    """True by default: the assistant's turn begins. False needs no answer's beginning at the end."""
    continue_final_message: StrictBool | None = None
    """True: the last message is left open, and the answer goes on with it."""
    chat_template_kwargs: (
        Annotated[dict[str, TemplateValue], Field(max_length=MAX_TEMPLATE_ARGUMENTS)] | None
    ) = None
    """Further variables of the template, for instance Qwen3's `enable_thinking`; single values only."""

    @property
    def opens_answer(self) -> bool:
        """Whether the assistant's turn begins behind the messages. RequestError when nothing can follow."""
        if self.continue_final_message and self.add_generation_prompt:
            raise clash("continue_final_message", "not together with add_generation_prompt: true")
        return self.add_generation_prompt is not False and not self.continue_final_message
