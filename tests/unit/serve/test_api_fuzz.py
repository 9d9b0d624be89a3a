"""Schemathesis makes right and wrong requests from the OpenAPI document, for a real engine behind the API.

No answer may be a 5xx, have a status or content type that the document doesn't know, or another shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance

from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder

OPERATIONS = [
    ("/v1/chat/completions", "POST", 200),
    ("/v1/completions", "POST", 200),
    ("/tokenize", "POST", 60),
    ("/detokenize", "POST", 60),
    ("/v1/models/{name}", "GET", 20),
    ("/v1/models", "GET", 2),
    ("/health", "GET", 2),
    ("/ready", "GET", 2),
    ("/version", "GET", 2),
    ("/metrics", "GET", 2),
]
"""Path, method and cases of either kind: 1,100 in all (requests that need no data have no wrong kind)."""


@pytest.fixture(scope="module")
def document(engine_backend: Any, encoder: PromptEncoder) -> Iterator[Any]:
    """The application's own document, with the model's name and bounds small enough that much is answered."""
    app = build_app(engine_backend, encoder, Model("tiny", "llama-abc-def"))
    narrow(app)
    yield schemathesis.openapi.from_asgi("/openapi.json", app)


def narrow(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    for name in ("ChatBody", "CompletionBody", "TokenizeBody", "DetokenizeBody"):
        properties = schemas[name]["properties"]
        properties["model"] = {"type": "string", "enum": ["tiny"]}
        for field, top in (("max_tokens", 8), ("max_completion_tokens", 8), ("min_tokens", 1), ("n", 3)):
            if field in properties:
                properties[field]["anyOf"][0]["maximum"] = top
        if "stop_token_ids" in properties:
            properties["stop_token_ids"]["anyOf"][0]["items"]["maximum"] = 299
            properties["logit_bias"]["anyOf"][0]["propertyNames"] = {"pattern": "^[1-9][0-9]?$"}


def mend(body: Any) -> Any:
    """Leave out what doesn't go together with the rest, which a schema can't say."""
    if not isinstance(body, dict):
        return body
    clashing = {"continue_final_message"}
    clashing |= {"prompt_logprobs"} if body.get("stream") else {"stream_options"}
    clashing |= set() if body.get("logprobs") else {"top_logprobs"}
    clashing |= {"echo"} if "messages" in body else set()
    return {name: value for name, value in body.items() if name not in clashing}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method", "cases"), OPERATIONS, ids=[path for path, _, _ in OPERATIONS])
def test_some_generated_requests(
    document: Any, path: str, method: str, cases: int, mode: GenerationMode
) -> None:
    run(document[path][method], mode, max(2, cases // 20))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_generated_requests(document: Any) -> None:
    done = Counter[int]()
    for path, method, cases in OPERATIONS:
        for mode in GenerationMode:
            done += run(document[path][method], mode, cases)
    assert done.total() >= 1000 and done[200] >= 200, done


def run(operation: Any, mode: GenerationMode, cases: int) -> Counter[int]:
    """Call and check; returns how many answers of each status there were."""
    statuses = Counter[int]()
    if mode is GenerationMode.NEGATIVE and not operation.body:
        return statuses

    @settings(
        max_examples=cases, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            case.body = mend(case.body)
        # A schema can't say that a prompt fits into the context, or that a token is in the vocabulary.
        response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        statuses[response.status_code] += 1

    call()
    return statuses
