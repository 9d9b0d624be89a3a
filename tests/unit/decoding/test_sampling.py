"""Bad sampling parameters are refused by name; good ones are not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.engine import Engine
from online_draft.errors import RequestError

NAN = float("nan")
BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -0.1}, "temperature"), ({"temperature": 1e-4}, "temperature"),
    ({"temperature": NAN}, "temperature"), ({"temperature": float("inf")}, "temperature"),
    ({"top_p": 0.0}, "top_p"), ({"top_p": 1.1}, "top_p"), ({"top_p": NAN}, "top_p"),
    ({"top_k": -1}, "top_k"), ({"min_p": -0.1}, "min_p"), ({"min_p": 1.5}, "min_p"),
    ({"presence_penalty": 2.5}, "presence_penalty"), ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"repetition_penalty": 0.0}, "repetition_penalty"), ({"repetition_penalty": NAN}, "repetition_penalty"),
    ({"max_tokens": 0}, "max_tokens"), ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"), ({"stop": ("a", "")}, "stop"),
    ({"stop_token_ids": (256,)}, "stop_token_ids"), ({"logit_bias": ((256, 1.0),)}, "logit_bias"),
    ({"logit_bias": ((-1, 1.0),)}, "logit_bias"), ({"logit_bias": ((1, 101.0),)}, "logit_bias"),
    ({"logit_bias": ((1, 1.0), (1, 2.0))}, "logit_bias"), ({"logprobs": -1}, "logprobs"),
    ({"logprobs": 21}, "logprobs"), ({"prompt_logprobs": 21}, "prompt_logprobs"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "field"), BAD)
def test_a_value_out_of_range_names_its_field(tiny_target, change: dict[str, Any], field: str) -> None:
    engine = Engine(tiny_target())
    with pytest.raises(RequestError, match=f"^{field}: must be ") as refused:
        engine.add(GenerationRequest("a", (1,), SamplingParams(**change)))
    assert refused.value.param == field and refused.value.code == "invalid_value"
    assert not engine.has_work


def test_values_in_range_are_accepted(random_sampling) -> None:
    rng = random.Random(0)
    for _ in range(200):
        random_sampling(rng, rng.randint(1, 40)).check(256)
