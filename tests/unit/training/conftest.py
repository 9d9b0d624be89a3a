"""A tiny random target with its own greedy and sampled answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from online_draft.core import GenerationRequest, SamplingParams, SpeculationCounts
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.engine import Engine
from online_draft.models.config import TargetConfig
from online_draft.models.drafter import Drafter
from online_draft.models.loading import LoadedTarget, random_target
from online_draft.training.features import TokenRecord

VOCAB = 256


@pytest.fixture(scope="session")
def tiny() -> LoadedTarget:
    """A Llama of a few thousand parameters in float64 with one token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    config = TargetConfig.tiny("llama", False, VOCAB)
    target = random_target(config, 0, torch.float64, logit_scale=4.0)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return LoadedTarget(target, wrapped, config, "tiny-1", "tiny", Path())


def generate(
    loaded: LoadedTarget, drafter: Drafter | None, count: int, temperature: float, length: int = 24
) -> tuple[list[TokenRecord], list[SpeculationCounts]]:
    """Answers of the engine to `count` fixed prompts, with its counts."""
    sizes = EngineConfig(max_sequences=4, feature_window=32, speculation="always", ngram=False)
    engine = Engine(loaded, sizes)
    engine.set_drafter(drafter, "v1" if drafter is not None else None)
    prompts = [tuple((7 * i + 3 * j) % VOCAB for j in range(3 + i % 5)) for i in range(count)]
    outputs: list[list[int]] = [[] for _ in prompts]
    counts = [SpeculationCounts() for _ in prompts]
    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(temperature=temperature, max_tokens=length + index, seed=index)
        engine.add(GenerationRequest(str(index), prompt, sampling))
    while engine.has_work:
        for output in engine.step():
            outputs[int(output.request_id)] += output.token_ids
            if output.counts is not None:
                counts[int(output.request_id)] = output.counts
    records = [
        TokenRecord(prompt, tuple(output), temperature, seed=index)
        for index, (prompt, output) in enumerate(zip(prompts, outputs, strict=True))
    ]
    return records, counts


@pytest.fixture(scope="session")
def greedy(tiny: LoadedTarget) -> list[TokenRecord]:
    """A dozen greedy answers."""
    return generate(tiny, None, 12, 0.0)[0]


@pytest.fixture(scope="session")
def answers() -> object:
    """The `generate` function."""
    return generate
