"""Who gets in, with which headers and errors: the application behind its gate, without Redis."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from online_draft.core import GenerationRequest, StepOutput
from online_draft.serve.access.config import AccessConfig
from online_draft.serve.access.gate import Gate
from online_draft.serve.access.key import ApiKey, digest_of
from online_draft.serve.access.key_file import changing_keys, write_keys
from online_draft.serve.access.keyring import Keyring
from online_draft.serve.access.limiter import Limiter
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.store import RedisKeys

BODY = {"model": "tiny", "prompt": "hello", "max_tokens": 4}
ADMIN = "the-admin-key"


def key(name: str, **more: Any) -> ApiKey:
    """A key whose secret is its name."""
    return ApiKey(name=name, digest=digest_of(name), **more)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@dataclass
class Door:
    """The application behind a gate."""

    http: httpx.AsyncClient
    gate: Gate
    file: Path

    async def ask(self, secret: str, **more: Any) -> httpx.Response:
        return await self.http.post("/v1/completions", json={**BODY, **more}, headers=bearer(secret))


Opener = Callable[..., Any]


@pytest.fixture
def door(backend: Any, encoder: PromptEncoder, tmp_path: Path) -> Opener:
    @asynccontextmanager
    async def opened(*keys: ApiKey, **config: Any) -> AsyncIterator[Door]:
        file = tmp_path / "keys.json"
        if keys:
            write_keys(file, keys)
        access = AccessConfig(**config)
        gate = Gate(access, Keyring(file, access.keys), Limiter(None, RedisKeys()), ADMIN)
        app = build_app(backend, encoder, Model("tiny", "llama-abc-def"), gate=gate)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            yield Door(http, gate, file)
        await gate.shut_down()

    return opened


async def test_without_keys_everybody_is_the_default_tenant(door: Opener, backend: Any) -> None:
    async with door() as open_door:
        assert (await open_door.http.post("/v1/completions", json=BODY)).status_code == 200
        assert (await open_door.ask("whatever", priority=-4)).status_code == 200
    assert [(seen.tenant, seen.learn, seen.priority) for seen in backend.seen] == [
        ("default", True, 0),
        ("default", True, -4),
    ]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "You didn't provide an API key"),
        ("Bearer ", "You didn't provide an API key"),
        ("Basic YTpi", "You didn't provide an API key"),
        ("Bearer wrong", "Incorrect API key provided"),
        ("Bearer " + digest_of("alice"), "Incorrect API key provided"),
        ("Bearer sécret", "Incorrect API key provided"),
        (f"Bearer {'x' * 5000}", "Incorrect API key provided"),
    ],
)
async def test_no_key_and_wrong_keys_are_401(
    door: Opener, backend: Any, header: str | None, message: str
) -> None:
    async with door(key("alice")) as shut:
        headers = {} if header is None else {"Authorization": header.encode()}
        for method, path in (("POST", "/v1/completions"), ("POST", "/v1/chat/completions"),
                             ("GET", "/v1/models"), ("POST", "/tokenize"), ("GET", "/nowhere")):  # fmt: skip
            answer = await shut.http.request(method, path, headers=headers, content=b"{")
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            error = answer.json()["error"]
            assert message in error["message"]
            assert (error["type"], error["code"], error["param"]) == (
                "invalid_request_error",
                "invalid_api_key",
                None,
            )
            assert "xxxxx" not in error["message"] and answer.headers["x-request-id"]
    assert not backend.seen


async def test_health_and_metrics_are_open_and_metrics_can_be_closed(door: Opener) -> None:
    async with door(key("alice"), key("root", admin=True), protect_metrics=True) as shut:
        for path in ("/health", "/ready", "/version"):
            assert (await shut.http.get(path)).status_code == 200
        for secret, status in (("", 401), ("alice", 401), ("wrong", 401), ("root", 200), (ADMIN, 200)):
            answer = await shut.http.get("/metrics", headers=bearer(secret) if secret else {})
            assert answer.status_code == status
    async with door(key("alice")) as shut:
        assert (await shut.http.get("/metrics")).status_code == 200


async def test_a_request_is_its_keys(door: Opener, backend: Any) -> None:
    keys = key("alice", tenant="acme", priority=-2), key("bob", learn=False)
    async with door(*keys) as shut:
        assert (await shut.ask("alice")).status_code == 200
        assert (await shut.ask("alice", priority=5)).status_code == 200
        assert (await shut.ask("alice", priority=-5)).status_code == 200
        assert (await shut.ask("alice", store=False)).status_code == 200
        assert (await shut.ask("bob", store=True)).status_code == 200
    assert [(seen.tenant, seen.priority, seen.learn) for seen in backend.seen] == [
        ("acme", -2, True),
        ("acme", 3, True),
        ("acme", -2, True),  # no key can hurry itself
        ("acme", -2, False),
        ("bob", 0, False),
    ]


async def test_an_open_endpoint_lets_everybody_in_and_still_knows_keys(door: Opener, backend: Any) -> None:
    async with door(key("alice"), open=True) as wide:
        assert (await wide.http.post("/v1/completions", json=BODY)).status_code == 200
        assert (await wide.ask("alice")).status_code == 200
    assert [seen.tenant for seen in backend.seen] == ["default", "alice"]


async def test_requests_per_minute_in_openais_words(door: Opener) -> None:
    async with door(key("alice", requests_per_minute=2)) as shut:
        first, second, third = [await shut.ask("alice") for _ in range(3)]
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in (first, second)] == ["1", "0"]
        assert first.headers["x-ratelimit-reset-requests"].endswith("s")
        assert third.status_code == 429
        error = third.json()["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert 29 <= int(third.headers["retry-after"]) <= 30
        assert third.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await shut.http.get("/v1/models", headers=bearer("alice"))).status_code == 200


async def test_tokens_are_reserved_and_what_was_not_used_comes_back(door: Opener) -> None:
    async with door(key("alice", tokens_per_minute=1000)) as shut:
        answer = await shut.ask("alice", max_tokens=40)
        used = answer.json()["usage"]["total_tokens"]
        reserved = answer.json()["usage"]["prompt_tokens"] + 40
        assert 1000 - int(answer.headers["x-ratelimit-remaining-tokens"]) == reserved > used
        again = await shut.ask("alice", max_tokens=1)
        left = int(again.headers["x-ratelimit-remaining-tokens"])
        assert left == pytest.approx(1000 - used - answer.json()["usage"]["prompt_tokens"] - 1, abs=3)


async def test_a_prompt_counts_once_and_every_answer_for_itself(door: Opener) -> None:
    async with door(key("alice", tokens_per_minute=1000)) as shut:
        answer = await shut.ask("alice", max_tokens=10, n=3)
        prompt = answer.json()["usage"]["prompt_tokens"]
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 1000 - prompt - 30


async def test_more_tokens_than_a_full_bucket_holds_are_refused_for_good(door: Opener) -> None:
    async with door(key("alice", tokens_per_minute=20)) as shut:
        answer = await shut.ask("alice", max_tokens=40)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (429, "tokens", "rate_limit_exceeded")
        assert "too large" in error["message"] and answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
        unstated = {name: value for name, value in BODY.items() if name != "max_tokens"}
        answer = await shut.http.post("/v1/completions", json=unstated, headers=bearer("alice"))
        assert answer.status_code == 200  # without a word about length, what the bucket holds


async def test_an_empty_token_bucket_is_429_with_a_time(door: Opener, backend: Any) -> None:
    async with door(key("alice", tokens_per_minute=60)) as shut:
        assert (await shut.ask("alice", max_tokens=50)).status_code == 200
        for _ in range(20):
            answer = await shut.ask("alice", max_tokens=50)
            if answer.status_code == 429:
                break
        assert answer.status_code == 429 and answer.json()["error"]["type"] == "tokens"
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        asked = len(backend.seen)
        assert (await shut.ask("alice", max_tokens=50)).status_code == 429
        assert len(backend.seen) == asked


class Hold:
    """A script that says one word and waits."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = 0

    async def __call__(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        self.running += 1
        try:
            yield StepOutput(request.request_id, (10,), "one")
            await self.go.wait()
            yield StepOutput(request.request_id, (11,), " two", "stop")
        finally:
            self.running -= 1


async def test_streams_at_the_same_time_are_bounded_per_key(door: Opener, backend: Any) -> None:
    backend.script = hold = Hold()
    async with door(key("alice", max_streams=2), key("bob", max_streams=2)) as shut:
        running = [asyncio.create_task(shut.ask("alice")) for _ in range(2)]
        while hold.running < 2:
            await asyncio.sleep(0.001)
        refused = await shut.ask("alice")
        assert refused.status_code == 429 and "concurrent" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "1"
        other = asyncio.create_task(shut.ask("bob"))
        while hold.running < 3:
            await asyncio.sleep(0.001)
        hold.go.set()
        assert [answer.status_code for answer in await asyncio.gather(*running, other)] == [200, 200, 200]
        assert (await shut.ask("alice")).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_revoked_key_stops_within_two_seconds_in_mid_sentence(
    door: Opener, backend: Any, stream: bool
) -> None:
    backend.script = hold = Hold()
    async with door(key("alice"), key("bob")) as shut:
        running = asyncio.create_task(shut.ask("alice", stream=stream))
        stays = asyncio.create_task(shut.ask("bob", stream=stream))
        while hold.running < 2:
            await asyncio.sleep(0.001)
        with changing_keys(shut.file) as keys:
            keys[:] = [each for each in keys if each.name != "alice"]
        revoked = time.monotonic()
        shut.gate.keyring.refresh(at_once=True)  # another request may be the first to see it
        assert (await shut.ask("alice", stream=False)).status_code == 401
        answer = await asyncio.wait_for(running, 2.0)
        assert time.monotonic() - revoked < 2.0
        assert hold.running == 1
        if stream:
            lines = [line for line in answer.text.split("\n\n") if line]
            assert "one" in lines[0] and lines[-1] == "data: [DONE]"
            assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "invalid_api_key"
        else:
            assert answer.status_code == 401
        hold.go.set()
        assert (await stays).status_code == 200


async def test_a_new_key_is_let_in_without_a_restart(door: Opener) -> None:
    async with door(key("alice")) as shut:
        assert (await shut.ask("bob")).status_code == 401
        with changing_keys(shut.file) as keys:
            keys.append(key("bob"))
        created = time.monotonic()
        while (await shut.ask("bob")).status_code != 200:
            await asyncio.sleep(0.01)
        assert time.monotonic() - created < 1.0


async def test_bounds_name_the_field(door: Opener) -> None:
    async with door(key("alice"), max_n=2, max_prompt_tokens=3) as shut:
        many = await shut.ask("alice", n=3)
        assert (many.status_code, many.json()["error"]["param"]) == (400, "n")
        long = await shut.ask("alice", prompt=[5, 6, 7, 8])
        error = long.json()["error"]
        assert (long.status_code, error["param"], error["code"]) == (400, "prompt", "context_length_exceeded")
        assert (await shut.ask("alice", prompt=[5, 6, 7], n=2)).status_code == 200


async def test_browsers_of_other_origins_are_turned_away_unless_allowed(door: Opener) -> None:
    preflight = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    async with door(key("alice")) as shut:
        assert (
            "access-control-allow-origin"
            not in (await shut.http.options("/v1/models", headers=preflight)).headers
        )
    async with door(key("alice"), cors_origins=("https://app.example.com",)) as shut:
        answer = await shut.http.options("/v1/models", headers=preflight)
        assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
        other = await shut.http.options("/v1/models", headers={**preflight, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_openais_client_knows_these_errors(door: Opener) -> None:
    async with door(key("alice", requests_per_minute=1)) as shut:

        def client(secret: str) -> openai.AsyncOpenAI:
            return openai.AsyncOpenAI(
                base_url="http://test/v1", api_key=secret, max_retries=0, http_client=shut.http
            )

        with pytest.raises(openai.AuthenticationError) as wrong:
            await client("wrong").models.list()
        assert wrong.value.code == "invalid_api_key"
        await client("alice").completions.create(model="tiny", prompt="hello", max_tokens=4)
        with pytest.raises(openai.RateLimitError) as limited:
            await client("alice").completions.create(model="tiny", prompt="hello", max_tokens=4)
        assert limited.value.code == "rate_limit_exceeded" and limited.value.type == "requests"
