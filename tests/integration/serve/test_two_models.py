"""Two models in one running system: the embedded target and a tiny random one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.launch import ChildSystem, RunFile
from online_draft.launch.admin import OnlineAdmin
from online_draft.models.loading import load_target
from online_draft.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = (20, 30, 40, 50)


class Two:
    """The service, a client, and the admin API of each model."""

    def __init__(self, run: RunFile) -> None:
        self.run = run
        self.http = httpx.Client(base_url=run.url, timeout=120, trust_env=False)
        self.admins = {
            name: OnlineAdmin(run.url, run.admin_key, model=name) for name in ("online-draft", "tiny")
        }

    def tokens(self, model: str, seed: int, temperature: float, **more: Any) -> tuple[int, ...]:
        body = {
            "model": model, "prompt": list(PROMPT), "max_tokens": 24, "seed": seed, "ignore_eos": True,
            "temperature": temperature, "return_token_ids": True, **more,
        }  # fmt: skip
        answer = self.http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        return tuple(answer.json()["choices"][0]["token_ids"])

    def close(self) -> None:
        self.http.close()
        for admin in self.admins.values():
            admin.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Two]:
    settings = load_settings(
        {
            "state_dir": tmp_path_factory.mktemp("two") / "state",
            "port": 0,
            "threads": 1,
            "start_timeout_s": 200,
            "engine": {"max_sequences": 4, "speculation": "always", "kernels": "off"},
            "learner": {"mode": "off"},
            "models": [
                {"name": "online-draft", "aliases": ["default"]},
                {"name": "tiny", "target": str(tiny), "learner": {"mode": "idle"}},
            ],
        }
    )
    with ChildSystem(settings) as run:
        running = Two(run)
        yield running
        running.close()


def plainly(target: str, seed: int, temperature: float) -> tuple[int, ...]:
    """What the target alone says."""
    engine = Engine(load_target(target), EngineConfig(speculation="off", kernels="off"))
    sampling = SamplingParams(temperature=temperature, max_tokens=24, seed=seed, ignore_eos=True)
    engine.add(GenerationRequest("a", PROMPT, sampling, speculate=False))
    tokens: list[int] = []
    while engine.has_work:
        for output in engine.step():
            tokens += output.token_ids
    return tuple(tokens)


@pytest.mark.parametrize(("model", "temperature"), [("default", 0.0), ("tiny", 0.0), ("tiny", 0.8)])
def test_each_answers_as_its_target_alone_would(two: Two, tiny: Path, model: str, temperature: float) -> None:
    target = str(tiny) if model == "tiny" else "embedded"
    assert two.tokens(model, 7, temperature) == plainly(target, 7, temperature)


def test_registries_records_and_learners_are_apart(two: Two, until: Callable[..., Any]) -> None:
    for _ in range(2):
        two.tokens("tiny", 1, 0.5)
    two.tokens("online-draft", 1, 0.5, store=False)
    statuses = {name: admin.status() for name, admin in two.admins.items()}
    first, second = statuses["online-draft"], statuses["tiny"]
    assert first["ladder"]["champion"] == "baseline" and second["ladder"]["champion"] == "untrained"
    assert [len(admin.drafters()) for admin in two.admins.values()] == [1, 1]
    assert first["replica"]["fingerprint"] == two.run.models["online-draft"]
    assert second["replica"]["fingerprint"] == two.run.models["tiny"] != two.run.fingerprint
    assert first["learner"] is None  # off
    two.admins["tiny"].decide("pin", None, "a test")
    pinned = {name: admin.status()["ladder"]["pinned"] for name, admin in two.admins.items()}
    assert pinned == {"online-draft": None, "tiny": "untrained"}

    def writers(model: str) -> dict[str, Any]:
        return two.admins[model].buffer()["writers"]

    def learns() -> bool:
        status = two.admins["tiny"].learner()["status"]
        return bool(status and status.get("champion"))

    until(lambda: writers("tiny")["stored"] >= 2 and writers("online-draft")["opted_out"] >= 1, 60)
    until(learns, 60)
    # Records arrive where they belong, and nowhere else.
    streams = {name: admin.buffer() for name, admin in two.admins.items()}
    assert streams["tiny"]["reader"]["other_target"] == 0
    assert streams["online-draft"]["reader"] is None
    assert streams["tiny"]["writers"]["opted_out"] == 0


def test_a_dead_replica_of_one_model_leaves_the_other_alone(two: Two, until: Callable[..., Any]) -> None:
    expected = two.tokens("online-draft", 3, 0.0)
    replica = two.admins["tiny"].status()["replica"]["replica"]
    os.kill(int(replica.rpartition("-")[2]), signal.SIGKILL)

    def ready() -> bool:
        """Whether the killed one's model is; the other one's always is."""
        assert two.tokens("online-draft", 3, 0.0) == expected
        assert two.http.get("/ready", params={"model": "online-draft"}).status_code == 200
        return two.http.get("/ready", params={"model": "tiny"}).status_code == 200

    until(lambda: not ready(), 60, "the dead replica's model stayed ready")
    until(ready, 120, "the killed replica never came back")
    assert len(two.tokens("tiny", 3, 0.0)) == 24
