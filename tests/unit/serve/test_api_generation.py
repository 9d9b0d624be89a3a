"""The generation routes over a backend of plain functions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from online_draft.core import GenerationRequest, StepOutput
from online_draft.errors import CapacityError, RequestError
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def test_chat_answer_has_text_usage_and_fingerprint(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/v1/chat/completions", json=CHAT)).json()
    assert answer["object"] == "chat.completion"
    assert answer["system_fingerprint"] == "llama-abc-def"
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "one two three",
        "refusal": None,
    }
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4
    assert usage["completion_tokens_details"] == {
        "accepted_prediction_tokens": 1,
        "rejected_prediction_tokens": 11,
    }
    assert "metrics" not in answer


async def test_stream_starts_with_the_role_and_ends_with_done(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert [delta["content"] for delta in deltas[1:]] == ["one", " two", " three"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert "usage" not in chunks[0]


async def test_include_usage_adds_one_event_without_choices(client: httpx.AsyncClient) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}, "metrics": True}
    *chunks, last, _done = events((await client.post("/v1/chat/completions", json=body)).text)
    assert all(chunk["usage"] is None and "metrics" not in chunk for chunk in chunks)
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 4
    totals = last["metrics"]["speculative_decoding"]
    assert (totals["per_step_drafted"], totals["per_step_accepted"]) == ([4, 4, 4], [0, 1, 0])
    assert totals["acceptance_histogram"] == [2, 1, 0]  # the lists, counted
    counts = totals["choices"][0]
    assert counts["drafter_version"] == "v7" and counts["step_lengths"] == [1, 2, 1]


async def test_metrics_have_vllms_totals_over_all_choices(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/v1/chat/completions", json={**CHAT, "metrics": True, "n": 2})).json()
    metrics = answer["metrics"]["speculative_decoding"]
    assert metrics["acceptance_histogram"] == [4, 2, 0] and metrics["num_spec_steps"] == 6
    assert (metrics["num_accepted_draft_tokens"], metrics["num_draft_tokens"]) == (2, 24)
    assert metrics["mean_acceptance_length"] == pytest.approx(1 + 2 / 6)
    assert metrics["num_spec_tokens"] == 2 and len(metrics["choices"]) == 2
    assert metrics["per_step_drafted"] is None and metrics["per_step_accepted"] is None


async def test_continuous_usage_grows_with_every_chunk(client: httpx.AsyncClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {**CHAT, "stream": True, "stream_options": options}
    *chunks, _done = events((await client.post("/v1/chat/completions", json=body)).text)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 3, 4, 4]
    assert len({chunk["usage"]["prompt_tokens"] for chunk in chunks}) == 1


async def test_every_choice_begins_with_its_role_and_ends_with_a_reason(client: httpx.AsyncClient) -> None:
    *chunks, _done = events(
        (await client.post("/v1/chat/completions", json={**CHAT, "stream": True, "n": 3})).text
    )
    for index in range(3):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant" and len(mine) == 4
        assert [choice["finish_reason"] for choice in mine] == [None, None, None, "stop"]


async def test_a_step_without_text_is_a_chunk(client: httpx.AsyncClient, backend: Any) -> None:
    async def half(request: GenerationRequest) -> AsyncIterator[StepOutput]:
        yield StepOutput(request.request_id, (1,), "")
        yield StepOutput(request.request_id, (2,), "€", "length")

    backend.script = half
    *chunks, _done = events((await client.post("/v1/chat/completions", json={**CHAT, "stream": True})).text)
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["", "", "€"]


async def test_a_deadline_cuts_the_answer_short(client: httpx.AsyncClient, backend: Any) -> None:
    async def late(request: GenerationRequest) -> AsyncIterator[StepOutput]:
        yield StepOutput(request.request_id, (1,), "one")
        yield StepOutput(request.request_id, (), "", "abort", error="deadline exceeded")

    backend.script = late
    answer = (await client.post("/v1/chat/completions", json={**CHAT, "deadline_s": 0.5})).json()
    assert answer["choices"][0]["finish_reason"] == "abort"
    assert answer["choices"][0]["message"]["content"] == "one"
    assert backend.seen[0].deadline_s == 0.5
    response = await client.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 500 and response.json()["error"]["code"] == "generation_failed"


async def test_stop_reason_says_what_ended_an_answer(
    client: httpx.AsyncClient, encoder: PromptEncoder, backend: Any
) -> None:
    ids = tuple(encoder.text("one two"))

    async def stopping(request: GenerationRequest) -> AsyncIterator[StepOutput]:
        if request.sampling.stop:
            yield StepOutput(request.request_id, ids, "one", "stop")
        else:
            yield StepOutput(
                request.request_id, (*ids, 7 if request.sampling.stop_token_ids else 4), "one two", "stop"
            )

    backend.script = stopping
    reasons = []
    for change in ({"stop": ["zwei", " two"]}, {"stop_token_ids": [7]}, {}):
        answer = (await client.post("/v1/chat/completions", json={**CHAT, **change})).json()
        reasons.append(answer["choices"][0]["stop_reason"])
    assert reasons == [" two", 7, None]


async def test_n_choices_share_the_seed_and_differ_in_index(client: httpx.AsyncClient, backend: Any) -> None:
    answer = (await client.post("/v1/chat/completions", json={**CHAT, "n": 3, "seed": 7})).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert sorted((r.choice_index, r.sampling.seed) for r in backend.seen) == [(0, 7), (1, 7), (2, 7)]
    assert answer["usage"]["prompt_tokens"] == len(backend.seen[0].prompt_ids)


@pytest.mark.parametrize(
    ("prompt", "count"), [("hello", 1), ([5, 6], 1), (["hello", "there"], 2), ([[5, 6], [7]], 2)]
)
async def test_completion_prompts_of_every_form(
    client: httpx.AsyncClient, backend: Any, prompt: Any, count: int
) -> None:
    body = {"model": "tiny", "prompt": prompt, "return_token_ids": True}
    answer = (await client.post("/v1/completions", json=body)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["one two three"] * count
    assert sorted(r.prompt_index for r in backend.seen) == list(range(count))
    assert {r.sampling.max_tokens for r in backend.seen} == {16}
    assert answer["choices"][0]["token_ids"] == [10, 11, 12, 13]


async def test_parameters_reach_the_engine(client: httpx.AsyncClient, backend: Any) -> None:
    body = {
        **CHAT, "temperature": 0, "top_p": 0.5, "top_k": 3, "max_completion_tokens": 9, "seed": 1,
        "stop": "x", "stop_token_ids": [4], "ignore_eos": True, "speculate": False, "store": False,
        "metadata": {"segment": "sql"}, "priority": -3, "logprobs": True, "top_logprobs": 4,
        "prompt_logprobs": 2,
    }  # fmt: skip
    await client.post("/v1/chat/completions", json=body)
    (request,) = backend.seen
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (0, 0.5, 3, 9)
    assert (sampling.seed, sampling.stop, sampling.stop_token_ids, sampling.ignore_eos) == (
        1,
        ("x",),
        (4,),
        True,
    )
    assert (request.speculate, request.learn, request.segment) == (False, False, "sql")
    assert (request.priority, sampling.logprobs, sampling.prompt_logprobs) == (-3, 4, 2)


async def test_processors_reach_the_engine(client: httpx.AsyncClient, backend: Any) -> None:
    body = {
        **CHAT, "temperature": 1e-6, "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -0.5,
        "repetition_penalty": 1.2, "logit_bias": {"7": -100, "8": 2.5}, "max_tokens": 9, "min_tokens": 3,
    }  # fmt: skip
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    sampling = backend.seen[0].sampling
    assert (sampling.temperature, sampling.min_p) == (0.01, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -0.5)
    assert (sampling.repetition_penalty, sampling.min_tokens) == (1.2, 3)
    assert sampling.logit_bias == ((7, -100), (8, 2.5))


async def test_defaults_learn_and_draw_a_seed(client: httpx.AsyncClient, backend: Any) -> None:
    for _ in range(2):
        await client.post("/v1/chat/completions", json=CHAT, headers={"X-Segment": "story"})
    first, second = backend.seen
    assert first.learn and first.segment == "story"
    assert first.sampling.seed != second.sampling.seed
    assert first.sampling.max_tokens == 64 - len(first.prompt_ids)


@pytest.mark.parametrize(
    ("more", "header", "session"),
    [
        ({}, None, None),
        ({"user": "u"}, None, "u"),
        ({"user": "u", "prompt_cache_key": "k"}, None, "k"),
        ({"user": "u", "prompt_cache_key": "k"}, "h", "h"),
        ({"user": 5, "prompt_cache_key": ""}, None, None),
        ({"user": "u" * 1000}, None, "u" * 256),
    ],
)
async def test_a_conversation_is_named_by_header_or_body(
    client: httpx.AsyncClient, backend: Any, more: dict[str, Any], header: str | None, session: str | None
) -> None:
    headers = {} if header is None else {"X-Session-Id": header}
    body = {"model": "tiny", "prompt": "hello", **more}
    answer = await client.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200 and "x-online-draft-ignored" not in answer.headers
    assert backend.seen[0].session == session


async def test_unknown_parameters_are_ignored_with_a_header(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/v1/chat/completions", json={**CHAT, "wibble": 1, "x\r\ny": 2, "tools": None}
    )
    assert response.status_code == 200
    assert response.headers["X-Online-Draft-Ignored"] == "wibble, x??y"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": True}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"seed": 1.5}, "seed"),
    ({"stop": 5}, "stop"),
    ({"stop": [""]}, "stop.0"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"metadata": {"segment": "a b"}}, "metadata.segment"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"priority": "high"}, "priority"),
    ({"deadline_s": 0}, "deadline_s"),
    ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
    ({"skip_special_tokens": False}, "skip_special_tokens"),
    ({"guided_json": {}}, "guided_json"),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"a": {}}}, "chat_template_kwargs"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
    ({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
    ({"audio": {}}, "audio"),
    ({"min_p": 1.5}, "min_p"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": "much"}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"five": 1}}, "logit_bias"),
    ({"logit_bias": {"300": 1}}, "logit_bias"),
    ({"logit_bias": [5]}, "logit_bias"),
    ({"stop_token_ids": [300]}, "stop_token_ids"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param"), BAD)
async def test_bad_requests_name_the_field(
    client: httpx.AsyncClient, backend: Any, change: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, **change})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == param and param.split(".")[0] in error["message"]
    assert error["type"] == "invalid_request_error" and error["code"]
    assert backend.seen == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "tiny"}, "prompt"),
        ({"model": "tiny", "prompt": []}, "prompt"),
        ({"model": "tiny", "prompt": ""}, "prompt"),
        ({"model": "tiny", "prompt": [1, "a"]}, "prompt"),
        ({"model": "tiny", "prompt": [999]}, "prompt"),
        ({"model": "tiny", "prompt": "a", "suffix": "b"}, "suffix"),
        ({"model": "tiny", "prompt": "a", "echo": "yes"}, "echo"),
        ({"model": "tiny", "prompt": [1] * 100_000}, "prompt"),
        ({"model": "tiny", "prompt": [-1]}, "prompt"),
        ({"prompt": "a"}, "model"),
    ],
)
async def test_bad_completions_name_the_field(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].split(".")[0] == param


@pytest.mark.parametrize(
    "raw", [b"", b"hello", b"[1]", b'{"model": NaN}', b"\xff\xfe", b'{"a":' * 100_000, b'{"model": "\xc3"}']
)
async def test_bodies_that_are_not_json_objects_are_400(client: httpx.AsyncClient, raw: bytes) -> None:
    response = await client.post("/v1/chat/completions", content=raw)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


async def test_a_huge_body_is_413(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", content=b" " * (5 * 1024 * 1024))
    assert response.status_code == 413


@pytest.mark.parametrize("content", ["not so " * 40, "x" * 1_000_000])
async def test_a_prompt_longer_than_the_context_is_refused(client: httpx.AsyncClient, content: str) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
    response = await client.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (
        400,
        "context_length_exceeded",
        "messages",
    )


async def test_prompt_and_answer_must_fit_together(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 64})
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_unknown_model_and_route_are_404(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, "model": "gpt-5"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    response = await client.get("/v1/nothing")
    assert response.status_code == 404 and response.json()["error"]["message"]
    assert (await client.get("/v1/chat/completions")).status_code == 405


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (CapacityError("the queue is full", 2), 503, "2"),
        (RequestError("prompt: too odd", "prompt", "invalid_value"), 400, None),
        (RuntimeError("secret path /x"), 500, None),
    ],
)
async def test_failures_before_the_first_item_have_a_proper_status(
    client: httpx.AsyncClient, backend: Any, error: Exception, status: int, retry: str | None, stream: bool
) -> None:
    async def failing(_request: GenerationRequest) -> AsyncIterator[StepOutput]:
        raise error
        yield

    backend.script = failing
    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
    assert response.status_code == status
    assert response.headers.get("Retry-After") == retry
    assert "secret" not in response.text


async def test_a_late_failure_is_an_error_event(client: httpx.AsyncClient, backend: Any) -> None:
    async def failing(request: GenerationRequest) -> AsyncIterator[StepOutput]:
        yield StepOutput(request.request_id, (1,), "one")
        yield StepOutput(request.request_id, (), "", "error", error="the engine failed")

    backend.script = failing
    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert response.status_code == 200
    *_, failure, done = events(response.text)
    assert failure["error"]["message"] == "the engine failed" and done == "[DONE]"


async def test_models_and_health(client: httpx.AsyncClient, backend: Any) -> None:
    (model,) = (await client.get("/v1/models")).json()["data"]
    assert model["id"] == "tiny" and (await client.get("/v1/models/tiny")).json() == model
    assert (await client.get("/v1/models/other")).status_code == 404
    assert (await client.get("/health")).status_code == 200
    backend.state = {"ready": False}
    assert (await client.get("/health")).status_code == 503
    backend.status_error = RuntimeError("dead")
    assert (await client.get("/health")).json()["error"]["code"] == "unhealthy"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
async def test_a_client_that_goes_away_closes_every_sequence(
    backend: Any, encoder: PromptEncoder, stream: bool, n: int
) -> None:
    reached = asyncio.Event()

    async def endless(request: GenerationRequest) -> AsyncIterator[StepOutput]:
        yield StepOutput(request.request_id, (1,), "one")
        reached.set()
        await asyncio.Event().wait()

    backend.script = endless
    app = build_app(backend, encoder, Model("tiny", "f"))
    body = json.dumps({**CHAT, "stream": stream, "n": n}).encode()
    inbox = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if inbox:
            return inbox.pop()
        await reached.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        pass

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"",
        "headers": [], "http_version": "1.1", "scheme": "http", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 10)
    assert len(backend.closed) == len(backend.seen) == n


async def test_the_openai_client_understands_everything(backend: Any, encoder: PromptEncoder) -> None:
    app = build_app(backend, encoder, Model("tiny", "f"))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app))
    async with openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http) as official:
        answer = await official.chat.completions.create(**CHAT)
        assert answer.choices[0].message.content == "one two three"
        assert answer.usage and answer.usage.completion_tokens_details
        assert answer.usage.completion_tokens_details.accepted_prediction_tokens == 1
        stream = await official.chat.completions.create(
            **CHAT, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "one two three"
        assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 4
        completion = await official.completions.create(model="tiny", prompt=["hello", "there"])
        assert len(completion.choices) == 2
        assert [model.id async for model in official.models.list()] == ["tiny"]
        with pytest.raises(openai.NotFoundError):
            await official.models.retrieve("other")
        with pytest.raises(openai.BadRequestError, match="temperature") as refused:
            await official.chat.completions.create(**CHAT, temperature=-1)
        assert refused.value.param == "temperature"
