"""Learner and control as Ray actors of a running system: traffic goes in, a better drafter comes out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from online_draft.launch import ChildSystem, RunFile
from online_draft.launch.admin import OnlineAdmin
from online_draft.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Until = Callable[..., None]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def make_target(directory: Path) -> None:
    """A random target that samples mostly from a few tokens: easy to learn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE).save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=0, bos_token_id=None,
        initializer_range=0.5, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)


class System:
    def __init__(self, run: RunFile) -> None:
        self.admin = OnlineAdmin(run.url, run.admin_key)
        self.http = httpx.Client(base_url=run.url, timeout=60, trust_env=False)
        self.sent = 0

    def learner(self) -> dict[str, Any]:
        status = self.admin.status()["learner"]
        return dict(status) if status else {}

    def ladder(self) -> dict[str, Any]:
        return dict(self.admin.status()["ladder"])

    def ask(self, index: int, **more: Any) -> list[int]:
        prompt = [(7 * index + 11 * place + index // 50) % 256 for place in range(6)]
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 40, "seed": index, "temperature": 0.5}
        extra = {"ignore_eos": True, "return_token_ids": True}
        response = self.http.post("/v1/completions", json={**body, **extra, **more})
        assert response.status_code == 200, response.text
        return list(response.json()["choices"][0]["token_ids"])

    def traffic(self, requests: int) -> None:
        for _ in range(requests):
            self.ask(self.sent)
            self.sent += 1


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    root = tmp_path_factory.mktemp("learner-system")
    make_target(root / "tiny")
    settings = load_settings(
        {
            "target": str(root / "tiny"),
            "state_dir": root / "state",
            "port": 0,
            "threads": 1,
            "drafter": "untrained",
            "learner": {
                "features": "replica",
                "pace": {"idle_ms": 200, "checkpoint_every_s": 0.5, "passes": 60},
                "gate": {"every_slices": 20, "min_records": 10, "refuse_every_s": 5},
                "reservoirs": {"held_out_fraction": 0.3},
            },
            "control": {"ping_every_s": 1.0, "canary_max_s": 2.0, "watch_min_s": 1.0, "watch_s": 5.0},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)  # the learner's is the service's business
        with ChildSystem(settings) as run:
            running = System(run)
            yield running
            running.admin.close()
            running.http.close()


def test_traffic_makes_a_better_drafter_that_serves_without_changing_an_output(
    system: System, until: Until
) -> None:
    before = [system.ask(index, store=False) for index in range(1000, 1010)]
    for _ in range(6):
        system.traffic(40)
        pause = time.monotonic() + 6
        while time.monotonic() < pause and not system.ladder()["promoted"]:
            time.sleep(0.1)
    until(lambda: system.ladder()["promoted"], 30, system.admin.status)
    champion = system.ladder()["champion"]
    until(lambda: system.admin.status()["replica"]["drafter_version"] == champion, 10, system.admin.status)
    assert [system.ask(index, store=False) for index in range(1000, 1010)] == before
    (promotion,) = [
        decision
        for decision in system.admin.status()["decisions"]
        if decision["kind"] == "promote" and decision["version"] == champion
    ]
    assert promotion["actor"] == "control" and promotion["numbers"]["gain"] > 0
    features = system.learner()["features"]
    assert features["from"] == "replica" and features["tokens"] > 0 == features["failed"]
    assert features["bytes"] == features["tokens"] * 32 * 4, "hidden size times float32"


def test_the_learner_has_one_thread_that_only_takes_idle_time(system: System) -> None:
    pid = system.learner()["pid"]
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    for expected in (b"OMP_NUM_THREADS=1", b"OMP_WAIT_POLICY=PASSIVE", b"KMP_BLOCKTIME=0"):
        assert expected in environment
    threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    assert os.SCHED_IDLE in [os.sched_getscheduler(thread) for thread in threads]


def test_a_killed_learner_comes_back_where_it_was(system: System, until: Until) -> None:
    until(lambda: system.learner().get("checkpoint"), 30, system.learner)
    before = system.learner()
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: system.learner().get("pid", before["pid"]) != before["pid"], 120, system.learner)
    until(lambda: system.learner().get("champion") == system.ladder()["champion"], 30, system.learner)
    assert system.learner()["slices"] >= before["slices"] - 60
    assert system.learner()["feed"]["training"] > 0
    assert system.admin.status()["control"]["learner"]["trouble"] == ""


def test_pausing_stops_it_and_resuming_starts_it(system: System, until: Until) -> None:
    system.admin.decide("pause", None, "test")
    until(lambda: system.learner()["state"] == "paused", 10, system.learner)
    system.admin.decide("resume", None, "test")
    until(lambda: system.learner()["state"] != "paused", 10, system.learner)
