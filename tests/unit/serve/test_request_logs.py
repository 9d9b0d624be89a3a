"""What a request leaves in the log: who, how long, how many tokens, which versions. Never its words."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from online_draft.core import GenerationRequest, StepOutput
from online_draft.logs import LogConfig, set_up_logs
from online_draft.serve.access.config import AccessConfig
from online_draft.serve.access.gate import Gate
from online_draft.serve.access.key import ApiKey, digest_of
from online_draft.serve.access.keyring import Keyring
from online_draft.serve.access.limiter import Limiter
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.store import RedisKeys

WORDS = ("xylophone", "quixotically", "zeppelin")
PROMPT = " ".join(WORDS)
ALICE = {"Authorization": "Bearer open-sesame", "X-Request-Id": "req-of-mine"}


@pytest.fixture(params=["json", "text"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The service's log file, everything in it down to debug."""
    root = logging.getLogger("online_draft")
    before = list(root.handlers), root.level, root.propagate
    path = tmp_path / "service.log"
    config = LogConfig(level="debug", format=request.param, file=str(path))
    set_up_logs(config, "ingress", target="llama-abc-def", code="0.1")
    yield path
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level, root.propagate = before


@pytest.fixture
async def http(backend: Any, encoder: PromptEncoder) -> AsyncIterator[httpx.AsyncClient]:
    alice = ApiKey("alice", digest_of("open-sesame"), tenant="acme", tokens_per_minute=10_000).as_dict()
    gate = Gate(AccessConfig(), Keyring(None, (alice,)), Limiter(None, RedisKeys()), "admin")
    app = build_app(backend, encoder, Model("tiny", "llama-abc-def"), gate=gate)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    await gate.shut_down()


async def breaks_late(request: GenerationRequest) -> AsyncIterator[StepOutput]:
    """Fails in mid-sentence with the prompt in its mouth."""
    yield StepOutput(request.request_id, (10,), WORDS[0])
    raise RuntimeError(f"{PROMPT}: {request.prompt_ids}")


async def breaks_early(request: GenerationRequest) -> AsyncIterator[StepOutput]:
    """Fails before anything came."""
    raise RuntimeError(PROMPT)
    yield


async def test_one_line_with_id_tenant_tokens_and_versions(
    log: Path, http: httpx.AsyncClient, backend: Any
) -> None:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 4}
    answer = (await http.post("/v1/completions", json=body, headers=ALICE)).json()
    (line,) = [line for line in log.read_text().splitlines() if "/v1/completions" in line]
    if not line.startswith("{"):
        for shown in ("request_id=req-of-mine", "tenant=acme", "status=200", "drafter_version=v7"):
            assert shown in line
        return
    found = json.loads(line)
    assert found["message"] == "request" and found["status"] == 200
    assert (found["request_id"], found["tenant"], found["key"]) == ("req-of-mine", "acme", "alice")
    assert (found["target"], found["code"], found["drafter_version"]) == ("llama-abc-def", "0.1", "v7")
    assert (found["id"], found["model"]) == (answer["id"], "tiny")
    assert found["duration_ms"] >= found["first_byte_ms"] >= 0
    assert found["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    assert found["completion_tokens"] == answer["usage"]["completion_tokens"] == 4


async def test_no_word_of_any_request_or_answer(log: Path, http: httpx.AsyncClient, backend: Any) -> None:
    chat: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 4,
    }
    plain: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4}
    asked = [
        ("/v1/chat/completions", chat, {200}),
        ("/v1/completions", plain, {200}),
        ("/v1/completions", {**plain, "stream": True, "user": PROMPT, "metadata": {"a": PROMPT}}, {200}),
        ("/v1/completions", {**plain, "model": PROMPT}, {404}),
        ("/v1/completions", {**plain, "stop": [PROMPT] * 100}, {400}),
        ("/v1/completions", {**plain, "temperature": PROMPT}, {400}),
        ("/v1/completions", {**plain, "prompt": PROMPT * 2000}, {400}),
        ("/v1/chat/completions", {**chat, "messages": [{"role": PROMPT, "content": PROMPT}]}, {400}),
        ("/tokenize", {"model": "tiny", "prompt": PROMPT}, {200, 404}),
    ]
    for path, body, statuses in asked:
        answer = await http.post(path, json=body, headers=ALICE)
        assert answer.status_code in statuses, answer.text
    assert (await http.post("/v1/completions", content=PROMPT, headers=ALICE)).status_code == 400
    assert (
        await http.post("/v1/completions", json=plain, headers={"X-Request-Id": PROMPT})
    ).status_code == 401
    assert (await http.get(f"/v1/models/{PROMPT}", headers=ALICE)).status_code == 404
    for script, stream in (
        (breaks_early, False),
        (breaks_early, True),
        (breaks_late, False),
        (breaks_late, True),
    ):
        backend.script = script
        answer = await http.post("/v1/completions", json={**plain, "stream": stream}, headers=ALICE)
        assert answer.status_code == (200 if script is breaks_late and stream else 500)
    text = log.read_text()
    assert [word for word in WORDS if word in text] == []
    assert "RuntimeError" in text and "breaks_late" in text and text.count("/v1/completions") >= 12
