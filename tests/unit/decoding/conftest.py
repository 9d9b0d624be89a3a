"""Tiny targets of every family, and drafters from useless to nearly always right."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from online_draft.core import GenerationRequest, StepOutput
from online_draft.decoding.engine import Engine
from online_draft.models.config import Architecture, TargetConfig
from online_draft.models.drafter import Draft, Drafter, DrafterConfig, DraftState, SharedWeights
from online_draft.models.loading import LoadedTarget, random_target
from online_draft.models.ring import FeatureRing

VOCAB = 256
TinyTarget = Callable[..., LoadedTarget]
Decode = Callable[..., dict[str, list[int]]]


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="session")
def tiny_target(byte_tokenizer: PreTrainedTokenizerFast) -> TinyTarget:
    """`tiny_target(architecture, tie, dtype, seed)`: a random target of a few thousand parameters."""
    made: dict[tuple[object, ...], LoadedTarget] = {}

    def make(
        architecture: Architecture = "llama",
        tie: bool = False,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> LoadedTarget:
        key = (architecture, tie, dtype, seed)
        if key not in made:
            config = TargetConfig.tiny(architecture, tie, VOCAB)
            target = random_target(config, seed, dtype, logit_scale=4.0)
            made[key] = LoadedTarget(target, byte_tokenizer, config, "tiny", "tiny", Path())
        return made[key]

    return make


class RecallDrafter(Drafter):
    """Proposes what followed the last tokens in the texts it was given, right with probability `accuracy`."""

    kind = "recall"

    def __init__(self, texts: Sequence[Sequence[int]], accuracy: float, seed: int) -> None:
        super().__init__(DrafterConfig(hidden_size=32, vocab_size=VOCAB, num_heads=4, window=16))
        self.rng = random.Random(seed)
        self.accuracy = accuracy
        self.following: dict[tuple[int, ...], list[int]] = {}
        for text in texts:
            for end in range(1, len(text)):
                for order in (1, 2, 3, 4):
                    self.following[tuple(text[max(0, end - order) : end])] = list(text[end : end + 4])

    def start_from(self, target: SharedWeights) -> None:
        """Nothing is borrowed."""

    def new_state(self, slots: int) -> DraftState:
        return DraftState(slots)

    def newest(self, state: DraftState, ring: FeatureRing, slots: Sequence[int]) -> Tensor:
        raise AssertionError("drafts are recalled")

    def context(self, hidden_BTF: Tensor, next_tokens_BT: Tensor) -> Tensor:
        raise AssertionError("drafts are recalled")

    def heads(self, features_NCF: Tensor) -> Tensor:
        raise AssertionError("drafts are recalled")

    def draft(self, state: DraftState, ring: FeatureRing, slots: Sequence[int]) -> Draft:
        logits = torch.randn(
            len(slots), 4, VOCAB, generator=torch.Generator().manual_seed(self.rng.getrandbits(32))
        )
        for index, slot in enumerate(slots):
            _, recent = ring.rows(slot, min(4, ring.available(slot)))
            tokens = recent.tolist()
            for order in (4, 3, 2, 1):
                known = self.following.get(tuple(tokens[-order:]))
                if known is not None:
                    for depth, token in enumerate(known):
                        if self.rng.random() < self.accuracy:
                            logits[index, depth, token] += 12.0
                    break
        return Draft(logits.double())


@pytest.fixture(scope="session")
def recall_drafter() -> type[RecallDrafter]:
    """The class of a drafter that knows given texts by heart."""
    return RecallDrafter


@pytest.fixture(scope="session")
def decode() -> Decode:
    """Run requests through an engine; `between(step)` is called before each step."""

    def run(
        engine: Engine, requests: Sequence[GenerationRequest], between: Callable[[int], None] | None = None
    ) -> dict[str, list[int]]:
        outputs: dict[str, list[int]] = {r.request_id: [] for r in requests}
        finished: dict[str, StepOutput] = {}
        pending = list(requests)
        step = 0
        while pending or engine.has_work:
            if pending:
                engine.add(pending.pop(0))
            if between is not None:
                between(step)
            for output in engine.step():
                assert output.request_id not in finished
                outputs[output.request_id].extend(output.token_ids)
                if output.finish_reason is not None:
                    finished[output.request_id] = output
            engine.check_integrity()
            step += 1
        for request in requests:
            counts = finished[request.request_id].counts
            assert counts is not None
            assert counts.committed == len(outputs[request.request_id])
        return outputs

    return run
