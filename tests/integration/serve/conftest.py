"""A tiny target with random weights, and a cluster that serves it with as many replicas as it is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from online_draft.launch.ports import free_port
from online_draft.launch.processes import adopt_orphans, command, descendants, end_all
from online_draft.redis_server import PrivateRedis

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_target(directory: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["once upon a time there was a little target"] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=4, pad_token_id=0,
        bos_token_id=None, initializer_range=0.4,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("target") / "tiny"
    make_target(directory)
    return directory


CHILD = """
import json, sys
from online_draft.launch import ray_local
from online_draft.serve.config import ServiceConfig

root, port = sys.argv[1], int(sys.argv[2])
ray_local.start_ray(f"{root}/ray", 8, 100)
try:
    from ray import serve

    from online_draft.serve.application import build_application

    for line in sys.stdin:
        order = json.loads(line)
        if "integrity" in order:
            handle = serve.get_deployment_handle("Replica", "online-draft")
            print("done", json.dumps(handle.check_integrity.remote().result(timeout_s=60)), flush=True)
            continue
        application = build_application(ServiceConfig.from_dict(order["config"]), order["replicas"])
        ray_local.deploy(application, "online-draft", "127.0.0.1", port, 240)
        print("done", "null", flush=True)
    ray_local.undeploy("online-draft", "Ingress")
finally:
    ray_local.leave_ray()
"""


KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.8, "logprobs": 2},
    {"temperature": 1.0, "frequency_penalty": 0.3},
    {"temperature": 1.0, "top_p": 0.9, "stop": "zzz"},
]


def body(number: int, tokens: int = 400) -> dict[str, Any]:
    """A request; its number is its seed and its prompt, and says how tokens are chosen."""
    return {
        "model": "tiny", "prompt": f"once upon a time {number}", "max_tokens": tokens, "seed": number,
        "ignore_eos": True, **KINDS[number % len(KINDS)],
    }  # fmt: skip


class Stream:
    """One streamed completion as its client sees it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.tokens: list[str] = []
        self.text = ""
        self.usage: dict[str, Any] = {}
        self.done = False

    async def run(self, http: httpx.AsyncClient, asked: dict[str, Any]) -> Stream:
        asked = {**asked, "stream": True, "stream_options": {"include_usage": True}}
        async with http.stream("POST", "/v1/completions", json=asked) as response:
            assert response.status_code == 200, (await response.aread())[:300]
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    self.done = True
                elif line:
                    self._take(json.loads(line.removeprefix("data: ")))
        assert self.done
        return self

    def _take(self, event: dict[str, Any]) -> None:
        assert "error" not in event, event
        self.events.append(event)
        self.usage = event["usage"] or self.usage
        for choice in event["choices"]:
            self.text += choice["text"]
            self.tokens += (choice["logprobs"] or {"tokens": []})["tokens"]


@dataclass
class Cluster:
    """The child process, the endpoint it serves, and the configuration it was given last."""

    process: subprocess.Popen[str]
    url: str
    config: dict[str, Any]
    log: Path

    def deploy(self, replicas: int, **changes: Any) -> None:
        """Returns when the new state is reached."""
        self.config |= changes
        self._tell({"replicas": replicas, "config": self.config})
        self.until(lambda: self.status()["replicas"] == replicas == len(self.pids()), "all replicas")

    def integrity(self) -> dict[str, int]:
        """What the engine of the only replica holds; fails when its books don't balance."""
        held: dict[str, int] = self._tell({"integrity": True})
        return held

    def _tell(self, order: dict[str, Any]) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        for line in iter(self.process.stdout.readline, ""):
            if line.startswith("done "):
                return json.loads(line.removeprefix("done "))
        raise AssertionError("the child ended")

    def pids(self, deployment: str = "Replica") -> list[int]:
        name = f"ray::ServeReplica:online-draft:{deployment}"
        return [pid for pid in descendants(self.process.pid) if command(pid).startswith(name)]

    def status(self) -> dict[str, Any]:
        headers = {"Authorization": "Bearer k"}
        answer = httpx.get(f"{self.url}/admin/api/status", headers=headers, timeout=30, trust_env=False)
        status: dict[str, Any] = answer.json()["replica"]
        return status

    def until(self, condition: Callable[[], object], what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(0.1)

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=self.url, timeout=180, trust_env=False, limits=limits)

    def stream(self) -> Stream:
        return Stream()

    def body(self, number: int, tokens: int = 400) -> dict[str, Any]:
        return body(number, tokens)

    def interruptions(self) -> int:
        return len(re.findall("goes on elsewhere", self.log.read_text()))


@pytest.fixture(scope="module")
def cluster(tiny: Path) -> Iterator[Cluster]:
    from online_draft.decoding.config import EngineConfig
    from online_draft.logs import LogConfig
    from online_draft.serve.config import ServiceConfig
    from online_draft.serve.fleet.scaling import ScalingConfig

    port = free_port()
    before = set(descendants(os.getpid()))
    adopt_orphans()
    # A short path of its own: Ray's sockets may have 107 bytes, and pytest's folders are long.
    with (
        tempfile.TemporaryDirectory(prefix="od-c-") as directory,
        PrivateRedis(f"{directory}/redis") as redis,
    ):
        root = Path(directory)
        config = ServiceConfig(
            target=str(tiny),
            model_name="tiny",
            store=str(root / "store"),
            cache_dir=str(root / "cache"),
            redis_url=redis.url,
            admin_key="k",
            threads=1,
            # Without the n-gram memory: an answer that was asked for before would be over at once.
            engine=EngineConfig(
                max_sequences=8, max_queue=32, speculation="always", kernels="off", ngram=False
            ),
            scaling=ScalingConfig(drain_s=2.0, resume_s=60.0),
            log=LogConfig(file=str(root / "log")),
        )
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(root), str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip
        started = Cluster(process, f"http://127.0.0.1:{port}", config.as_dict(), root / "log")
        try:
            yield started
        finally:
            children = descendants(process.pid)
            process.communicate(timeout=120)
            end_all([pid for pid in children if pid not in before], 10)
            adopt_orphans(False)
    assert process.returncode == 0
