"""Types, bounds and clashes of fields, shared by all request bodies."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, StrictInt

from online_draft.core import MAX_LOGPROBS
from online_draft.errors import RequestError

MAX_CHOICES = 16
MAX_PROMPTS = 64
MAX_STOPS = 16
MAX_STOP_IDS = 128
MAX_BIASES = 1024
MAX_TEMPLATE_ARGUMENTS = 16
MAX_PRIORITY = 2**31 - 1
SEED_BOUND = 2**63
INT_BOUND = 2**31 - 1

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(strict=True)]
PromptText = Annotated[str, Field(strict=True, min_length=1)]
Token = Annotated[StrictInt, Field(ge=0, le=INT_BOUND)]
TokenIds = Annotated[list[Token], Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0, le=INT_BOUND)]
Bias = Annotated[Number, Field(ge=-100, le=100)]
Biases = Annotated[
    dict[TokenId, Bias],
    Field(max_length=MAX_BIASES, json_schema_extra={"propertyNames": {"pattern": "^[0-9]{1,9}$"}}),
]
Penalty = Annotated[Number, Field(ge=-2, le=2)]
StopText = Annotated[str, Field(strict=True, min_length=1, max_length=256)]
Stops = Annotated[list[StopText], Field(max_length=MAX_STOPS)]
Prompts = Annotated[list[PromptText | TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
Logprobs = Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)]
TemplateValue = StrictBool | StrictInt | Number | Text | None


def clash(name: str, when: str) -> RequestError:
    """The refusal of a field beside others: when it would be accepted."""
    return RequestError(f"{name}: {when}", param=name, code="invalid_value")
