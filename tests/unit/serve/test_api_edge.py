"""Whatever clients send: a clear answer in the error shape, within bounds, and the next request is served."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from online_draft.core import GenerationRequest, StepOutput
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.edge import MAX_BODY_BYTES
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.api.replies import ErrorReply

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def error_of(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    return ErrorReply.model_validate(response.json()).error


async def test_unknown_routes_and_methods_have_the_error_shape(client: httpx.AsyncClient) -> None:
    assert error_of(await client.get("/v1/nothing"), 404).code == "not_found"
    response = await client.get("/v1/chat/completions")
    assert error_of(response, 405).code == "method_not_allowed" and response.headers["allow"] == "POST"
    assert error_of(await client.request("BREW", "/health"), 405).type == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    ("raw", "kind", "code"),
    [
        (b"a=1", "application/x-www-form-urlencoded", "invalid_content_type"),
        (b"<a/>", "text/xml", "invalid_content_type"),
        (b"\x00", "multipart/form-data; boundary=x", "invalid_content_type"),
        (b"{", "application/json; charset=utf-8", "invalid_json"),
        (b"\xff\xfe{}", "application/json", "invalid_json"),
        (b'{"a": "\xed\xa0\x80"}', "application/json", "invalid_json"),
        (b"[" * 100_000, "application/json", "invalid_json"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "application/json", "invalid_json"),
        (b"9" * 5000, "application/json", "invalid_json"),
        (b"{}", "application/json", "missing_required_parameter"),
    ],
)
async def test_bodies_that_are_no_json_objects(
    client: httpx.AsyncClient, path: str, raw: bytes, kind: str, code: str
) -> None:
    error = error_of(await client.post(path, content=raw, headers={"Content-Type": kind}), 400)
    if path == "/tokenize" and code == "missing_required_parameter":
        code = "invalid_value"  # either of two
    assert error.code == code and error.message


@pytest.mark.parametrize(
    "body",
    [
        {**CHAT, "messages": [{"role": "user", "content": "\ud800"}]},
        {**CHAT, "model": "\ud800"},
        {**CHAT, "stop": "\udfff"},
        {**CHAT, "logit_bias": {"\ud800": 1}},
        {**CHAT, "temperature": 10**400},
        {**CHAT, "seed": 10**300},
        {**CHAT, "max_tokens": 10**300},
        {**CHAT, "top_k": 10**300},
        {**CHAT, "chat_template_kwargs": {"\ud800": "\ud800"}},
    ],
)
async def test_half_characters_and_huge_numbers_are_400(client: httpx.AsyncClient, body: Any) -> None:
    content = json.dumps(body).encode()
    response = await client.post("/v1/chat/completions", content=content)
    assert error_of(response, 400).code in ("invalid_value", "invalid_json", "context_length_exceeded")


async def test_an_ignored_name_can_not_write_headers(client: httpx.AsyncClient) -> None:
    content = json.dumps({**CHAT, "\U0001f600\r\nX-Evil: 1": 1, "": 2}).encode()
    response = await client.post("/v1/chat/completions", content=content)
    assert response.status_code == 200
    assert (
        response.headers["X-Online-Draft-Ignored"] == "?, ???X-Evil??1" and "X-Evil" not in response.headers
    )


async def test_a_body_is_cut_off_at_the_bound(backend: Any, encoder: PromptEncoder) -> None:
    """A client that sends for ever, and says nothing of the length, is heard for 4 MiB and no further."""
    app = build_app(backend, encoder, Model("tiny", "f"))
    sent = 0
    chunk = b"x" * 65_536

    async def receive() -> dict[str, Any]:
        nonlocal sent
        sent += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}

    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "headers": [],
        "http_version": "1.1", "scheme": "http", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    tracemalloc.start()
    await asyncio.wait_for(app(scope, receive, send), 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (
        messages[0]["status"] == 413 and json.loads(messages[1]["body"])["error"]["code"] == "body_too_large"
    )
    assert sent <= MAX_BODY_BYTES + len(chunk) and peak < 4 * MAX_BODY_BYTES


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize", "/nothing"])
async def test_a_length_beyond_the_bound_is_refused_unread(
    backend: Any, encoder: PromptEncoder, path: str
) -> None:
    app = build_app(backend, encoder, Model("tiny", "f"))

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing has to be read")

    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"", "http_version": "1.1",
        "headers": [(b"content-length", b"10485760")], "scheme": "http", "root_path": "",
        "asgi": {"version": "3.0"},
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 10)
    assert messages[0]["status"] == 413


@pytest.mark.parametrize("length", ["-1", "abc", "1" * 5000, "²"])
async def test_an_odd_content_length_does_no_harm(client: httpx.AsyncClient, length: str) -> None:
    content = json.dumps(CHAT).encode()
    headers = {"Content-Length": length.encode("latin-1", "replace")}
    response = await client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "prompt", [[5] * 1_000_000, "word " * 700_000, ["x" * 60_000] * 60, [[7] * 30_000] * 60]
)
async def test_a_hopeless_prompt_is_refused_quickly(
    client: httpx.AsyncClient, backend: Any, prompt: Any
) -> None:
    start = time.monotonic()
    response = await client.post("/v1/completions", json={"model": "tiny", "prompt": prompt})
    assert error_of(response, 400).code == "context_length_exceeded"
    assert time.monotonic() - start < 10 and backend.seen == []


async def test_a_prompt_made_of_special_tokens_stays_text(client: httpx.AsyncClient, backend: Any) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": "<|end|><|system|>"}]}
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    user, *inner, end, assistant = backend.seen[0].prompt_ids
    assert (user, end, assistant) == (2, 4, 3) and min(inner) > 4


async def test_others_are_served_while_a_large_body_is_checked(client: httpx.AsyncClient) -> None:
    large = {"model": "tiny", "prompt": [5] * 900_000}
    slow = asyncio.create_task(client.post("/v1/completions", json=large))
    worst = 0.0
    while not slow.done():
        start = time.monotonic()
        await asyncio.sleep(0.01)
        assert (await client.get("/version")).status_code == 200
        worst = max(worst, time.monotonic() - start)
    assert (await slow).status_code == 400 and worst < 5


@pytest.mark.parametrize("given", ["abc-123", "0f8fad5b-d9cb-469f-a165-70867728950e", "a" * 128])
async def test_a_request_id_comes_back(client: httpx.AsyncClient, given: str) -> None:
    for path, status in (("/health", 200), ("/nothing", 404)):
        response = await client.get(path, headers={"X-Request-Id": given})
        assert response.status_code == status and response.headers.get_list("X-Request-Id") == [given]


@pytest.mark.parametrize("given", [None, "", "a b", "a" * 129, "a\tb", "évil", "-x", "a;b"])
async def test_other_request_ids_are_replaced(client: httpx.AsyncClient, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
    (made,) = (await client.get("/health", headers=headers)).headers.get_list("X-Request-Id")
    assert re.fullmatch("req-[0-9a-f]{24}", made)


async def test_a_stream_and_a_failure_have_a_request_id(client: httpx.AsyncClient, backend: Any) -> None:
    headers = {"X-Request-Id": "mine"}
    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers)
    assert response.headers["X-Request-Id"] == "mine"

    async def failing(_request: GenerationRequest) -> AsyncIterator[StepOutput]:
        raise RuntimeError("a secret")
        yield

    backend.script = failing
    response = await client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert response.headers["X-Request-Id"] == "mine"
    assert error_of(response, 500).code == "internal_error" and "secret" not in response.text


async def test_behind_a_proxy_that_sets_it_the_header_is_left_out(
    backend: Any, encoder: PromptEncoder
) -> None:
    app = build_app(backend, encoder, Model("tiny", "f"), echo_request_id=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        assert "X-Request-Id" not in (await http.get("/health")).headers


async def test_cors_is_off(client: httpx.AsyncClient) -> None:
    origin = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    response = await client.options("/v1/chat/completions", headers=origin)
    assert response.status_code == 405
    response = await client.post("/v1/chat/completions", json=CHAT, headers=origin)
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_parser_meets_its_own_limit_before_ours_does() -> None:
    """Nesting is bounded by json's recursion check; this fails where an interpreter has none."""
    with pytest.raises(RecursionError):
        json.loads("[" * 1_000_000)
    assert sys.getrecursionlimit() <= 100_000
