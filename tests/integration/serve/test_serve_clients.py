"""The API of a running service: the official client, and hostile ones."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from online_draft.launch import ChildSystem
from online_draft.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MESSAGES: Any = [{"role": "user", "content": "tell me a story"}]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[str]:
    settings = load_settings(
        {
            "target": str(tiny),
            "state_dir": tmp_path_factory.mktemp("clients") / "state",
            "port": 0,
            "threads": 1,
            "learner": {"mode": "off"},
            "control": {"enabled": False},
            "engine": {"max_sequences": 4, "max_queue": 32, "speculation": "always"},
        }
    )
    with ChildSystem(settings) as run:
        yield run.url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


def test_logprobs_echo_n_and_usage(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {
            "model": "tiny", "messages": MESSAGES, "max_tokens": 12, "seed": 5, "n": 3, "logprobs": True,
            "top_logprobs": 3,
        }  # fmt: skip
        whole = client.chat.completions.create(**asked)
        texts = ["", "", ""]
        tokens = 0
        for chunk in client.chat.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.logprobs and choice.logprobs.content:
                    tokens += len(choice.logprobs.content)
        assert texts == [choice.message.content for choice in whole.choices]
        assert whole.usage and tokens == whole.usage.completion_tokens
        scored = client.completions.create(
            model="tiny", prompt="once upon a time", echo=True, logprobs=1, max_tokens=0
        )
        assert scored.choices[0].text == "once upon a time"
        logprobs = scored.choices[0].logprobs
        assert logprobs and logprobs.token_logprobs and logprobs.token_logprobs[0] is None
        assert all(value is not None and value <= 0 for value in logprobs.token_logprobs[1:])
        extra = client.completions.create(
            model="tiny", prompt="once", max_tokens=3, extra_body={"prompt_logprobs": 2, "priority": -1}
        )
        assert extra.choices[0].model_extra and len(extra.choices[0].model_extra["prompt_logprobs"]) >= 1


async def test_many_async_streams_at_once(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

        async def one(seed: int) -> str:
            stream = await client.chat.completions.create(
                model="tiny", messages=MESSAGES, max_tokens=20, seed=seed % 4, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        texts = await asyncio.gather(*(one(seed) for seed in range(16)))
    assert [texts[index] for index in range(4)] * 4 == texts


def test_service_routes(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready"}
    assert http.get("/version").status_code == 200
    tokens = http.post("/tokenize", json={"prompt": "once upon"}).json()
    assert http.post("/detokenize", json={"tokens": tokens["tokens"]}).json() == {"prompt": "once upon"}
    assert "online_draft_http_requests_total" in http.get("/metrics").text
    assert http.get("/openapi.json").json()["openapi"].startswith("3.")


def test_every_answer_has_one_request_id(http: httpx.Client) -> None:
    for path in ("/health", "/nothing"):
        assert http.get(path, headers={"X-Request-Id": "mine"}).headers.get_list("X-Request-Id") == ["mine"]
        (made,) = http.get(path).headers.get_list("X-Request-Id")
        assert made


HOSTILE: list[tuple[bytes, str, int]] = [
    (b" " * 10 * 1024 * 1024, "application/json", 413),
    (json.dumps({"model": "tiny", "prompt": [5] * 1_000_000}).encode(), "application/json", 400),
    (b'{"a":' * 100_000, "application/json", 400),
    (b'{"model": "tiny", "prompt": "\xff"}', "application/json", 400),
    (b'{"model": "tiny", "prompt": "\\ud800"}', "application/json", 400),
    (b"model=tiny", "application/x-www-form-urlencoded", 400),
]


@pytest.mark.parametrize(
    ("body", "kind", "status"), HOSTILE, ids=["10 MB", "1M tokens", "deep", "utf-8", "surrogate", "form"]
)
def test_hostile_bodies_get_a_clear_answer_while_others_are_served(
    url: str, http: httpx.Client, body: bytes, kind: str, status: int
) -> None:
    seen: list[int] = []
    stop = threading.Event()

    def others() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not stop.is_set():
                asked = {"model": "tiny", "prompt": "once", "max_tokens": 4}
                seen.append(client.post("/v1/completions", json=asked).status_code)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        while not seen:
            time.sleep(0.01)
        start = time.monotonic()
        response = http.post("/v1/completions", content=body, headers={"Content-Type": kind})
        took = time.monotonic() - start
        served = len(seen)
        while len(seen) < served + 2 and thread.is_alive():
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join()
    assert response.status_code == status and response.json()["error"]["code"]
    assert took < 20 and set(seen) == {200}


def test_headers_can_not_be_injected(url: str) -> None:
    """Raw bytes on the wire: what looks like further headers in an id must not become some."""
    host, port = url.removeprefix("http://").split(":")
    for given in (b"a%0d%0aX-Evil:%201", b"a\rX-Evil: 1", b"a\\r\\nX-Evil: 1"):
        request = b"GET /version HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\nConnection: close\r\n\r\n" % given
        answer = exchange(host, int(port), request).lower()
        assert b"\nx-evil" not in answer and b"\rx-evil" not in answer
        assert answer.startswith((b"http/1.1 400", b"http/1.1 200")) or not answer


def test_slow_headers_hold_nobody_up(url: str, http: httpx.Client) -> None:
    host, port = url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port)), timeout=10) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-")
        start = time.monotonic()
        for _ in range(5):
            asked = {"model": "tiny", "prompt": "once", "max_tokens": 4}
            assert http.post("/v1/completions", json=asked).status_code == 200
        assert time.monotonic() - start < 20
    finally:
        for connection in slow:
            connection.close()


def exchange(host: str, port: int, request: bytes) -> bytes:
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
        return answer
