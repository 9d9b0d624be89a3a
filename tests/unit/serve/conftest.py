"""A target directory with a tiny tokenizer, and a backend of plain functions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from online_draft.core import GenerationRequest, SpeculationCounts, StepOutput
from online_draft.serve.api.app import Model, build_app
from online_draft.serve.api.prompts import PromptEncoder
from online_draft.serve.engine_thread import EngineThread

SPECIALS = ["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture(scope="session")
def target_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("target")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello world, hello there, is <|end|> the end?"] * 4, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": TEMPLATE, "eos_token": "<|end|>"})
    )
    (directory / "config.json").write_text(json.dumps({"vocab_size": 300, "max_position_embeddings": 64}))
    return directory


@pytest.fixture(scope="session")
def encoder(target_dir: Path) -> PromptEncoder:
    return PromptEncoder(target_dir)


Script = Callable[[GenerationRequest], AsyncIterator[StepOutput]]


async def three_steps(request: GenerationRequest) -> AsyncIterator[StepOutput]:
    """Says "one two three" in three steps; four drafted nodes a step, one accepted in the second."""
    yield StepOutput(request.request_id, (10,), "one", draft=(4, 0))
    yield StepOutput(request.request_id, (11, 12), " two", draft=(4, 1))
    counts = SpeculationCounts(steps=3, committed=4, drafted=12, tried=[3, 1], accepted=[1, 0])
    yield StepOutput(request.request_id, (13,), " three", "stop", counts, "v7", draft=(4, 0))


@dataclass
class FakeBackend:
    """Plays a script and remembers what it was asked."""

    script: Script = three_steps
    seen: list[GenerationRequest] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=lambda: {"ready": True})
    status_error: Exception | None = None
    updates: list[tuple[str, str, str, float]] = field(default_factory=list)
    update: dict[str, Any] = field(default_factory=dict)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        self.seen.append(request)
        try:
            async for output in self.script(request):
                yield output
        finally:
            self.closed.append(request.request_id)

    async def complete(self, request: GenerationRequest) -> list[StepOutput]:
        return [output async for output in self.generate(request)]

    async def update_target(self, path: str, actor: str, reason: str, drain_s: float) -> dict[str, Any]:
        self.updates.append((path, actor, reason, drain_s))
        return self.update

    async def status(self) -> dict[str, Any]:
        if self.status_error is not None:
            raise self.status_error
        return self.state


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
async def client(backend: FakeBackend, encoder: PromptEncoder) -> AsyncIterator[httpx.AsyncClient]:
    app = build_app(backend, encoder, Model("tiny", "llama-abc-def"))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


class EngineBackend:
    """A real engine over a tiny random target, on its own thread."""

    def __init__(self, thread: EngineThread[Any]) -> None:
        self.thread = thread

    def generate(self, request: GenerationRequest) -> AsyncIterator[StepOutput]:
        return self.thread.generate(request)

    async def complete(self, request: GenerationRequest) -> list[StepOutput]:
        return [output async for output in self.thread.generate(request)]

    async def status(self) -> dict[str, Any]:
        self.thread.check()
        return {"ready": True}


@pytest.fixture(scope="session")
def engine_backend(target_dir: Path) -> Iterator[EngineBackend]:
    import torch
    from transformers import PreTrainedTokenizerFast

    from online_draft.decoding.config import EngineConfig
    from online_draft.decoding.engine import Engine
    from online_draft.models.config import TargetConfig
    from online_draft.models.loading import LoadedTarget, random_target

    config = TargetConfig.tiny("llama", False, 300, max_position_embeddings=64, eos_token_ids=(4,))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(target_dir / "tokenizer.json"))
    loaded = LoadedTarget(
        random_target(config, 0, torch.float32), tokenizer, config, "llama-abc-def", "tiny", target_dir
    )
    thread = EngineThread(
        lambda: Engine(loaded, EngineConfig(max_sequences=8, max_queue=2048, kernels="off"))
    )
    thread.start(60)
    yield EngineBackend(thread)
    thread.close()


@pytest.fixture
async def live(engine_backend: EngineBackend, encoder: PromptEncoder) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over a real engine."""
    app = build_app(engine_backend, encoder, Model("tiny", "llama-abc-def"))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
        yield http
