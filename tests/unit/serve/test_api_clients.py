"""The official client, and LangChain, over a socket: sync, async, streams, raw answers, retries, timeouts."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
import uvicorn
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from online_draft.core import GenerationRequest, StepOutput
from online_draft.errors import CapacityError
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder

HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def served(backend: Any, engine_backend: Any, encoder: PromptEncoder) -> Iterator[str]:
    """The API over a scripted backend, on a port of its own."""
    with listening(backend, encoder) as url:
        yield url


@pytest.fixture(scope="module")
def engine_url(engine_backend: Any, encoder: PromptEncoder) -> Iterator[str]:
    """The API over a real engine."""
    with listening(engine_backend, encoder) as url:
        yield url


class listening:
    """Serves in a thread until the block ends."""

    def __init__(self, backend: Any, encoder: PromptEncoder) -> None:
        app = build_app(backend, encoder, Model("tiny", "llama-abc-def"))
        self.socket = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, log_level="error", loop="asyncio", ws="none", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()


def test_sync_chat_whole_and_streamed(engine_url: str) -> None:
    with openai.OpenAI(base_url=engine_url, api_key="none", max_retries=0) as client:
        asked: Any = {
            "model": "tiny", "messages": HELLO, "seed": 5, "max_tokens": 10, "n": 2, "logprobs": True,
            "top_logprobs": 2,
        }  # fmt: skip
        whole = client.chat.completions.create(**asked)
        assert [choice.index for choice in whole.choices] == [0, 1]
        assert whole.choices[0].message.content != whole.choices[1].message.content
        content = whole.choices[0].logprobs
        assert content and content.content and content.content[0].top_logprobs[0].bytes is not None
        assert whole.usage and whole.usage.completion_tokens == sum(
            len(choice.logprobs.content)
            for choice in whole.choices
            if choice.logprobs and choice.logprobs.content
        )
        texts = {0: "", 1: ""}
        reasons: dict[int, str] = {}
        usage = None
        with client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ) as stream:
            for chunk in stream:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
                    if choice.finish_reason:
                        reasons[choice.index] = choice.finish_reason
        assert texts == {choice.index: choice.message.content for choice in whole.choices}
        assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
        assert usage and usage.total_tokens == whole.usage.total_tokens


async def test_async_completions_with_echo_and_logprobs(engine_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=engine_url, api_key="none", max_retries=0) as client:
        asked: Any = {
            "model": "tiny", "prompt": ["hello", [104, 105, 106]], "seed": 5, "max_tokens": 8, "n": 2,
            "echo": True, "logprobs": 2,
        }  # fmt: skip
        whole = await client.completions.create(**asked)
        assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
        assert all(choice.text.startswith("hello") for choice in whole.choices[:2])
        logprobs = whole.choices[0].logprobs
        assert logprobs and logprobs.token_logprobs and logprobs.token_logprobs[0] is None
        assert logprobs.top_logprobs and logprobs.text_offset and logprobs.tokens
        texts = [""] * 4
        async for chunk in await client.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        assert texts == [choice.text for choice in whole.choices]
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(model="tiny", messages=HELLO, seed=9, max_tokens=6)
                for _ in range(8)
            )
        )
        assert len({answer.choices[0].message.content for answer in answers}) == 1


def test_raw_responses_show_headers_and_ids(engine_url: str) -> None:
    with openai.OpenAI(base_url=engine_url, api_key="none", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="tiny", messages=HELLO, max_tokens=2, extra_headers={"X-Request-Id": "mine-1"},
            extra_body={"wibble": 1, "top_k": 3, "min_p": 0.1, "priority": 1},
        )  # fmt: skip
        assert raw.request_id == "mine-1" and raw.headers["X-Online-Draft-Ignored"] == "wibble"
        answer = raw.parse()
        assert answer._request_id == "mine-1" and answer.choices[0].message.content is not None
        with client.chat.completions.with_streaming_response.create(
            model="tiny", messages=HELLO, max_tokens=3, stream=True
        ) as streamed:
            assert streamed.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in streamed.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"


def test_errors_are_the_clients_own_exceptions(engine_url: str) -> None:
    with openai.OpenAI(base_url=engine_url, api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(
                model="tiny", messages=HELLO, tools=[{"type": "function", "function": {"name": "f"}}]
            )
        assert (refused.value.param, refused.value.code) == ("tools", "unsupported_parameter")
        with pytest.raises(openai.NotFoundError) as missing:
            client.models.retrieve("gpt-5")
        assert missing.value.code == "model_not_found" and missing.value.request_id
        with pytest.raises(openai.APIStatusError) as large:
            client.completions.create(model="tiny", prompt="x" * (5 * 1024 * 1024))
        assert large.value.status_code == 413
        assert client.models.retrieve("tiny").id == "tiny"


def test_a_full_queue_is_retried_after_the_time_it_names(served: str, backend: Any) -> None:
    attempts: list[float] = []
    script = backend.script

    async def full_at_first(request: GenerationRequest) -> AsyncIterator[StepOutput]:
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise CapacityError("the queue is full", 1)
        async for output in script(request):
            yield output

    backend.script = full_at_first
    with openai.OpenAI(base_url=served, api_key="none", max_retries=2) as client:
        answer = client.chat.completions.create(model="tiny", messages=HELLO)
        assert answer.choices[0].message.content == "one two three"
    assert len(attempts) == 3 and attempts[1] - attempts[0] >= 0.99

    attempts.clear()
    with (
        openai.OpenAI(base_url=served, api_key="none", max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as busy,
    ):
        client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    assert busy.value.status_code == 503 and busy.value.response.headers["Retry-After"] == "1"


def test_bad_requests_are_not_retried(served: str, backend: Any) -> None:
    with (
        openai.OpenAI(base_url=served, api_key="none", max_retries=5) as client,
        pytest.raises(openai.BadRequestError),
    ):
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=-1)
    assert backend.seen == []


async def test_a_clients_timeout_ends_the_sequence(served: str, backend: Any) -> None:
    async def endless(request: GenerationRequest) -> AsyncIterator[StepOutput]:
        yield StepOutput(request.request_id, (1,), "one")
        await asyncio.Event().wait()

    backend.script = endless
    async with openai.AsyncOpenAI(base_url=served, api_key="none", max_retries=0, timeout=0.5) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(model="tiny", messages=HELLO)
        with pytest.raises(openai.APITimeoutError):
            async for _ in await client.chat.completions.create(model="tiny", messages=HELLO, stream=True):
                pass
    deadline = time.monotonic() + 10
    while len(backend.closed) < 2:
        assert time.monotonic() < deadline, "the sequences were not closed"
        await asyncio.sleep(0.02)


def test_a_late_failure_raises_behind_what_came_before(served: str, backend: Any) -> None:
    async def breaking(request: GenerationRequest) -> AsyncIterator[StepOutput]:
        yield StepOutput(request.request_id, (1,), "one")
        raise RuntimeError("a secret")

    backend.script = breaking
    seen = ""
    with (
        openai.OpenAI(base_url=served, api_key="none", max_retries=2) as client,
        pytest.raises(openai.APIError) as failed,
    ):
        for chunk in client.chat.completions.create(model="tiny", messages=HELLO, stream=True):
            seen += chunk.choices[0].delta.content or ""
    assert seen == "one" and len(backend.seen) == 1
    assert "secret" not in str(failed.value) and failed.value.code == "internal_error"


async def test_langchains_adapter_whole_streamed_and_async(engine_url: str) -> None:
    model = ChatOpenAI(
        base_url=engine_url, api_key=SecretStr("none"), model="tiny", seed=5, max_retries=0, temperature=0.7,
        stream_usage=True, max_completion_tokens=10,
    )  # fmt: skip
    whole = model.invoke([("user", "once upon a time")])
    assert isinstance(whole, AIMessage) and whole.usage_metadata is not None
    assert (
        whole.usage_metadata["output_tokens"] == 10 and whole.response_metadata["finish_reason"] == "length"
    )
    chunks = list(model.stream([("user", "once upon a time")]))
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content and len(chunks) > 3
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 10
    other = await model.ainvoke([("system", "be brief"), ("user", "once upon a time")])
    assert isinstance(other.content, str)
    with pytest.raises(openai.BadRequestError, match="tools"):
        model.bind(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]).invoke("hello")
