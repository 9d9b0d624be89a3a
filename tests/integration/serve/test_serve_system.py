"""The running system: real Ray, real Redis, the real openai client, a tiny random target.

The service is a child process, as the demo runs it; tests talk to it over HTTP, and kill parts of it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from online_draft.errors import ArtifactError
from online_draft.launch import ChildSystem, RunFile
from online_draft.launch.admin import OnlineAdmin
from online_draft.launch.processes import descendants
from online_draft.launch.pushing import push_drafter
from online_draft.models.artifact import new_drafter, save_drafter
from online_draft.models.loading import load_target
from online_draft.settings import Settings, load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class System:
    """The running service with clients for its two faces."""

    def __init__(self, settings: Settings, run: RunFile) -> None:
        self.settings = settings
        self.run = run
        self.admin = OnlineAdmin(run.url, run.admin_key)
        self.http = httpx.Client(base_url=run.url, timeout=120, trust_env=False)

    def status(self) -> dict[str, Any]:
        return self.admin.status()

    def complete(self, seed: int, **more: Any) -> dict[str, Any]:
        body = {"model": "tiny", "prompt": "once upon a time", "max_tokens": 40, "seed": seed, **more}
        response = self.http.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def replica_pid(self) -> int:
        return int(self.status()["replica"]["replica"].rpartition("-")[2])


@pytest.fixture
def soon(until: Callable[..., Any]) -> Callable[..., Any]:
    """`until`; the service may be away while it recovers."""
    return partial(until, ignoring=Exception)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[System]:
    root = tmp_path_factory.mktemp("system")
    before = set(descendants(os.getpid()))  # other tests' Redis, for instance
    settings = load_settings(
        {
            "target": str(tiny),
            "state_dir": root / "state",
            "port": 0,
            "threads": 1,
            "learner": {"mode": "off"},
            "control": {"enabled": False},
            # Without the n-gram memory: an answer that was asked for before would be over at once.
            "engine": {
                "max_sequences": 4,
                "max_queue": 4,
                "speculation": "always",
                "kernels": "wait",
                "ngram": False,
            },
        }
    )
    with ChildSystem(settings) as run:
        running = System(settings, run)
        yield running
        running.admin.close()
        running.http.close()
    assert set(descendants(os.getpid())) <= before
    assert not (root / "state" / "run.json").exists() and not Path(run.temp_dir).exists()


def test_the_openai_client_streaming_and_not(system: System) -> None:
    client = openai.OpenAI(base_url=f"{system.run.url}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "tell me a story"}]
    assert [model.id for model in client.models.list()] == ["tiny"]
    whole = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=30, seed=5, temperature=0.8
    )
    assert whole.system_fingerprint == system.run.fingerprint
    assert whole.usage and whole.usage.completion_tokens_details
    assert whole.usage.completion_tokens_details.rejected_prediction_tokens
    stream = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=30, seed=5, temperature=0.8, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    several = client.completions.create(model="tiny", prompt=["once", "a time"], n=2, max_tokens=5, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=messages)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=messages, temperature=-1)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt="once " * 3000)
    assert refused.value.code == "context_length_exceeded"
    client.close()


def test_plain_and_speculative_decoding_give_the_same_text(system: System) -> None:
    for seed in range(5):
        plain = system.complete(seed, speculate=False)
        drafted = system.complete(seed)
        assert drafted["choices"] == plain["choices"]
        assert plain["usage"]["completion_tokens_details"]["rejected_prediction_tokens"] == 0


def test_admin_needs_the_key(system: System) -> None:
    assert system.http.get("/admin/api/status").status_code == 401
    assert system.http.get("/health").json() == {"status": "ok"}


def test_an_opted_out_request_is_counted_and_not_stored(system: System) -> None:
    before = system.status()["replica"]["records"]
    system.complete(1, store=False)
    after = system.status()["replica"]["records"]
    assert after["opted_out"] == before["opted_out"] + 1
    assert after["produced"] == before["produced"]


def test_a_client_that_goes_away_frees_its_sequence(system: System, soon: Callable[..., Any]) -> None:
    body = {"model": "tiny", "prompt": "once", "max_tokens": 900, "ignore_eos": True, "stream": True}
    with system.http.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    soon(lambda: system.status()["replica"]["running"] == 0, 5, "the sequence is freed")


def test_more_than_the_queue_holds_is_503_with_retry_after(system: System, soon: Callable[..., Any]) -> None:
    body = {"model": "tiny", "prompt": "once", "max_tokens": 900, "ignore_eos": True, "n": 16}
    response = system.http.post("/v1/completions", json=body)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert response.json()["error"]["code"] == "server_overloaded"
    soon(lambda: system.status()["replica"]["running"] == 0, 10, "the others are cancelled")


def test_a_promotion_swaps_the_drafter_and_changes_no_output(
    system: System, tmp_path: Path, soon: Callable[..., Any]
) -> None:
    before = [system.complete(seed)["choices"] for seed in range(3)]
    loaded = load_target(system.run.target)
    save_drafter(new_drafter("medusa", loaded.target, seed=1), tmp_path / "other", loaded.fingerprint)
    pushed = push_drafter(system.settings, tmp_path / "other")
    version = pushed.version
    assert pushed.running and version in [entry["version"] for entry in system.admin.drafters()]
    assert system.status()["replica"]["drafter_version"] == "untrained"
    system.admin.decide("promote", version, "a test")
    soon(lambda: system.status()["replica"]["drafter_version"] == version, 10, "the swap")
    assert [system.complete(seed)["choices"] for seed in range(3)] == before
    metrics = system.complete(0, metrics=True)["metrics"]["speculative_decoding"]["choices"][0]
    assert metrics["drafter_version"] == version
    system.admin.decide("roll_back", None, "a test")
    soon(lambda: system.status()["replica"]["drafter_version"] == "untrained", 10, "the rollback")


def test_a_drafter_of_another_target_is_not_registered(system: System, tmp_path: Path) -> None:
    loaded = load_target(system.run.target)
    save_drafter(new_drafter("medusa", loaded.target), tmp_path / "foreign", "llama-0-0")
    before = system.admin.drafters()
    with pytest.raises(ArtifactError, match="for target llama-0-0, but"):
        push_drafter(system.settings, tmp_path / "foreign")
    assert system.admin.drafters() == before


@pytest.mark.parametrize("damage", ["corrupt", "truncated", "mismatched"])
def test_a_damaged_drafter_is_refused_and_the_running_one_serves(
    system: System, tmp_path: Path, damage: str, soon: Callable[..., Any]
) -> None:
    loaded = load_target(system.run.target)
    save_drafter(new_drafter("medusa", loaded.target, seed=2), tmp_path / "bad", loaded.fingerprint)
    version = push_drafter(system.settings, tmp_path / "bad", damage).version
    published = Path(system.settings.artifacts) / "registry" / loaded.fingerprint / "drafters" / version
    weights = published / "model.safetensors"
    if damage == "corrupt":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        about = json.loads((published / "version.json").read_text())
        (published / "version.json").write_text(json.dumps({**about, "target": "llama-other"}))
    system.admin.decide("promote", version, "a test")
    soon(lambda: version in system.status()["replica"]["unusable"], 10, "the refusal")
    status = system.status()["replica"]
    assert status["alarm"] and status["drafter_version"] == "untrained"
    assert {"corrupt": "corrupt", "truncated": "bytes", "mismatched": "llama-other"}[damage] in (
        status["unusable"][version]
    )
    system.complete(1)
    system.admin.decide("roll_back", None, "a test")
    soon(lambda: not system.status()["replica"]["alarm"], 10, "the rollback")


def test_redis_away_and_back_changes_nothing_for_clients(system: System, soon: Callable[..., Any]) -> None:
    system.complete(0)
    soon(lambda: system.status()["replica"]["records"]["spooled"] == 0, 10, "the records are stored")
    os.kill(system.run.helpers[f"redis-server {redis_pid(system.run)}"], signal.SIGSTOP)
    try:
        start = time.monotonic()
        for seed in range(10):
            system.complete(seed)
        assert time.monotonic() - start < 20
    finally:
        os.kill(redis_pid(system.run), signal.SIGKILL)
    for seed in range(3):
        system.complete(seed)

    def balanced() -> bool:
        books = system.status()["replica"]["records"]
        assert books["produced"] == books["stored"] + books["spooled"] + books["dropped"]
        return bool(books["spooled"] == 0)

    soon(balanced, 30, "the records are stored after Redis came back")


def redis_pid(run: RunFile) -> int:
    return next(pid for name, pid in run.helpers.items() if name.startswith("redis-server"))


@contextmanager
def streaming(system: System) -> Iterator[Iterator[str]]:
    body = {
        "model": "tiny",
        "prompt": "once",
        "max_tokens": 900,
        "ignore_eos": True,
        "stream": True,
        "seed": 1,
    }
    with system.http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        yield response.iter_lines()


def test_the_only_replica_is_killed_and_its_stream_goes_on_when_it_is_back(system: System) -> None:
    """Runs last: it costs a restart of the replica."""
    pid = system.replica_pid()
    whole = system.complete(1, prompt="once", max_tokens=900, ignore_eos=True)["choices"][0]["text"]
    with streaming(system) as lines:
        events = [next(lines)]
        os.kill(pid, signal.SIGKILL)
        events += [line for line in lines if line]
    assert events.pop() == "data: [DONE]"
    steps = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    assert "".join(step["text"] for step in steps) == whole
    assert steps[-1]["finish_reason"] == "length"
    assert system.replica_pid() != pid
