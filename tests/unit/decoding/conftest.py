"""Tiny targets of every family, and drafters from useless to nearly always right."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from online_draft.core import GenerationRequest, SamplingParams, StepOutput
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


def draw_sampling(rng: random.Random, max_tokens: int, vocab: int = VOCAB) -> SamplingParams:
    """A random combination of every sampling parameter; each is off about half of the time."""

    def maybe(off: Any, *values: Any) -> Any:
        return rng.choice(values) if rng.random() < 0.5 else off

    tokens = rng.sample(range(vocab), 8)
    return SamplingParams(
        temperature=rng.choice([0.0, 0.7, 1.0, 1.6]),
        top_p=maybe(1.0, 0.9, 0.3),
        top_k=maybe(0, 1, 5, 300),
        max_tokens=max_tokens,
        stop=maybe((), ("e",), ("aa", "\n")),
        stop_token_ids=maybe((), (5, 17), tuple(tokens[:3])),
        ignore_eos=rng.random() < 0.5,
        seed=rng.getrandbits(63),
        min_p=maybe(0.0, 0.02, 0.3, 1.0),
        presence_penalty=maybe(0.0, 1.5, -1.0),
        frequency_penalty=maybe(0.0, 0.8, -0.4),
        repetition_penalty=maybe(1.0, 1.3, 0.8),
        logit_bias=maybe((), ((tokens[0], 100.0),), tuple((t, rng.uniform(-9, 9)) for t in tokens)),
        min_tokens=maybe(0, min(3, max_tokens), max_tokens),
        logprobs=maybe(None, 0, 3),
        prompt_logprobs=maybe(None, 0, 2),
    )


@pytest.fixture(scope="session")
def random_sampling() -> Callable[..., SamplingParams]:
    """`random_sampling(rng, max_tokens)`: a random combination of every sampling parameter."""
    return draw_sampling


class Parentheses:
    """Toy grammar: digits inside balanced parentheses, at most `deepest` deep; `end` only outside of them.

    With no `end` the text is complete, and the mask allows nothing, as soon as they balance.
    """

    def __init__(
        self, opening: int, closing: int, digits: Sequence[int], end: int | None, deepest: int
    ) -> None:
        self.opening, self.closing, self.digits, self.end = opening, closing, list(digits), end
        self.deepest = deepest

    def start(self, prompt_ids: tuple[int, ...]) -> tuple[int, bool]:
        return 0, False

    def advance(self, state: tuple[int, bool], token: int) -> tuple[int, bool]:
        depth, _ = state
        allowed = self.allowed(state)
        assert bool(allowed[token]), "advanced with a forbidden token"
        return depth + (token == self.opening) - (token == self.closing), True

    def allowed(self, state: tuple[int, bool]) -> Tensor:
        depth, begun = state
        mask = torch.zeros(VOCAB, dtype=torch.bool)
        if depth == 0 and begun and self.end is None:
            return mask
        mask[self.opening] = depth < self.deepest
        mask[self.closing] = depth > 0
        mask[self.digits] = depth > 0
        if depth == 0 and begun and self.end is not None:
            mask[self.end] = True
        return mask


@pytest.fixture(scope="session")
def parentheses(byte_tokenizer: PreTrainedTokenizerFast) -> Callable[..., Parentheses]:
    """`parentheses(end, deepest)` over the byte tokenizer's ids."""

    def make(end: int | None = 0, deepest: int = 3) -> Parentheses:
        opening, closing, *digits = byte_tokenizer.convert_tokens_to_ids(list("()0123456789"))
        return Parentheses(opening, closing, digits, end, deepest)

    return make


@pytest.fixture(scope="session")
def steps_of() -> Callable[..., dict[str, list[StepOutput]]]:
    """Run (request, token mask) pairs, one added before each step, and keep every output."""

    def run(engine: Engine, requests: Sequence[tuple[GenerationRequest, Any]]) -> dict[str, list[StepOutput]]:
        outputs: dict[str, list[StepOutput]] = {r.request_id: [] for r, _ in requests}
        pending = list(requests)
        while pending or engine.has_work:
            if pending:
                engine.add(*pending.pop(0))
            for output in engine.step():
                outputs[output.request_id].append(output)
            engine.check_integrity()
        return outputs

    return run
