"""The embedded target is fine-tuned while it serves: its drafter gets stale, and learns the new manner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from online_draft.cli import app
from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.launch import ChildSystem, RunFile
from online_draft.launch.admin import OnlineAdmin
from online_draft.models.embedded import TARGET_DIR
from online_draft.models.embedded.domains import examples
from online_draft.models.loading import load_target
from online_draft.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOKENS = 48


def new_manner(answer: str) -> str:
    """SQL as nobody wrote it before: in small letters, commented."""
    return f"-- asked, answered\n{answer.lower()}\n-- that is all"


def fine_tuned(to: Path, steps: int = 40) -> Path:
    """A few steps on another style, seeded; embeddings stay."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TARGET_DIR)
    model = AutoModelForCausalLM.from_pretrained(TARGET_DIR, dtype=torch.float32)
    model.get_input_embeddings().requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4)
    source = examples("sql", seed=5)
    for _ in range(steps):
        losses = []
        for example in islice(source, 4):
            turn = [{"role": "user", "content": example.prompt}]
            text = str(tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
            prompt = tokenizer(text, add_special_tokens=False).input_ids
            answer = tokenizer(new_manner(example.answer), add_special_tokens=False).input_ids
            ids = torch.tensor([[*prompt, *answer, tokenizer.eos_token_id]])
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :]))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
    return to


class System:
    """A running system and its clients."""

    def __init__(self, run: RunFile) -> None:
        self.run = run
        self.admin = OnlineAdmin(run.url, run.admin_key)
        self.http = httpx.Client(base_url=run.url, timeout=60, trust_env=False)
        self.prompts = [e.prompt for e in islice(examples("sql", seed=9), 600)]
        self.sent = 0

    def ask(self, index: int, **more: Any) -> dict[str, Any]:
        body = {
            "model": self.run.model,
            "messages": [{"role": "user", "content": self.prompts[index % len(self.prompts)]}],
            "max_tokens": TOKENS, "temperature": 0.0, "seed": index, "return_token_ids": True, **more,
        }  # fmt: skip
        response = self.http.post("/v1/chat/completions", json=body, headers={"X-Segment": "sql"})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def burst(self, count: int) -> float:
        """Answer so many requests, four at a time; their τ."""
        before = self.counts()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self.ask, range(self.sent, self.sent + count)))
        self.sent += count
        until(lambda: self.counts()[2] >= before[2] + count, 10, self.counts)
        after = self.counts()
        return (after[0] - before[0]) / (after[1] - before[1])

    def counts(self) -> tuple[int, int, int]:
        """Tokens, steps and records so far."""
        status = self.admin.status()
        cells = status.get("counts", {}).get("sql", {}).values()
        written = status.get("records", {}).get("stored", 0)
        return (
            sum(c["speculation"]["committed"] for c in cells),
            sum(c["speculation"]["steps"] for c in cells),
            written,
        )


def until(condition: Callable[[], object], seconds: float, what: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    settings = load_settings(
        {
            "state_dir": tmp_path_factory.mktemp("update") / "state",
            "port": 0,
            "start_timeout_s": 240,
            "threads": 1,
            "engine": {"ngram": False, "speculation": "always"},
            "learner": {
                "pace": {"idle_ms": 100, "checkpoint_every_s": 2},
                "reservoirs": {"held_out_fraction": 0.3},
            },
            "control": {"canary_max_s": 2.0, "watch_min_s": 1.0, "watch_s": 3.0},
        }
    )
    with ChildSystem(settings) as run:
        running = System(run)
        yield running
        running.admin.close()
        running.http.close()


def test_a_fine_tuned_target_takes_over_and_its_drafter_catches_up(system: System, tmp_path: Path) -> None:
    origin = system.admin.target()["fingerprint"]
    known = system.burst(40)
    before = system.ask(0)
    path = fine_tuned(tmp_path / "tuned")
    ended = CliRunner().invoke(
        app,
        ["target", "update", str(path), "--url", system.run.url, "--admin-key", system.run.admin_key],
    )
    assert ended.exit_code == 0, ended.output
    shown = system.admin.target()
    fingerprint = shown["fingerprint"]
    assert fingerprint != origin == shown["origin"] and shown["unproven"]

    # The new target's own words, and its name.
    loaded = load_target(path)
    # Saved again, the same tokenizer has other bytes; that which is served counts.
    assert loaded.fingerprint.rsplit("-", 1)[0] == fingerprint.rsplit("-", 1)[0]
    answers = [system.ask(index, store=False) for index in range(6)]
    plain = Engine(loaded, EngineConfig(speculation="off", kernels="off"))
    for index, answer in enumerate(answers):
        sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS, seed=index)
        plain.add(GenerationRequest(str(index), tuple(answer["prompt_token_ids"]), sampling))
    said: dict[str, list[int]] = {str(index): [] for index in range(6)}
    while plain.has_work:
        for output in plain.step():
            said[output.request_id] += output.token_ids
    for index, answer in enumerate(answers):
        assert answer["choices"][0]["token_ids"] == said[str(index)]
    assert answers[0]["choices"][0]["message"] != before["choices"][0]["message"]
    until(lambda: system.http.get("/v1/models").json()["data"][0]["fingerprint"] == fingerprint, 10, dict)
    assert system.ask(0, store=False)["system_fingerprint"] == fingerprint

    # The drafter is stale at first; learner and control follow, and it catches up.
    stale = system.burst(40)
    taus, promoted = [stale], 0
    deadline = time.monotonic() + 300
    while not promoted or taus[-1] < stale + 0.6 * (known - stale):
        assert time.monotonic() < deadline, (known, taus, system.admin.status())
        taus.append(system.burst(40))
        time.sleep(2)
        ladder = system.admin.status()["ladder"]
        promoted = ladder["promoted"]
    print(f"tau {known:.2f} before, {stale:.2f} stale, then {', '.join(f'{tau:.2f}' for tau in taus[1:])}")
    status = system.admin.status()
    assert status["control"]["target"] == fingerprint and status["learner"]["champion"] != shown["champion"]
    assert not system.admin.target()["unproven"]
    assert status["learner"]["feed"]["training"] > 0
    assert status["replica"]["fingerprint"] == fingerprint and not status["replica"]["alarm"]
