"""Trees ranked by noise: what the target will choose stands first, where the heads know its distribution."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from online_draft.core import GenerationRequest, SamplingParams
from online_draft.decoding.config import EngineConfig
from online_draft.decoding.drafting.ranking import NoiseRanking
from online_draft.decoding.drafting.tree import DraftTrees, build_trees
from online_draft.decoding.engine import Engine
from online_draft.decoding.noise import gumbel, noise_key, stream_key
from online_draft.decoding.verification import Walk, walk
from online_draft.models.config import TargetConfig
from online_draft.models.drafter import Draft, MarkovTerm
from online_draft.models.loading import LoadedTarget, random_target

VOCAB, HEADS, SEED, POSITION = 64, 4, 11, 37
TEMPERATURE = 0.8


def chain_draft(seed: int) -> Draft:
    """Heads that know a target for which only the token before matters."""
    logits = 2 * torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    term = MarkovTerm(torch.eye(VOCAB, dtype=torch.float64), logits.T.contiguous())
    return Draft(torch.zeros(1, HEADS, VOCAB, dtype=torch.float64), term)


def ranking(trust: float, position: int = POSITION, temperature: float = TEMPERATURE) -> NoiseRanking:
    return NoiseRanking(
        np.array([temperature]),
        np.array([stream_key(SEED, 1, 2)]),
        np.array([position]),
        np.full(HEADS, trust),
    )


def walked(draft: Draft, root: int, trees: DraftTrees) -> Walk:
    """The walk of the target that `draft` knows, with the noise of verification."""
    assert draft.markov is not None
    tokens = trees.token_SN[0].tolist()

    def choose(row: int, depth: int) -> int:
        assert draft.markov is not None
        before = root if row == 0 else tokens[row - 1]
        noise = gumbel([noise_key(SEED, 1, 2, POSITION + depth)], torch.arange(VOCAB))[0]
        return int((draft.markov.logits(torch.tensor(before)) / TEMPERATURE + noise).argmax())

    return walk(choose, tokens, trees.parent_SN[0].tolist())


def accepted(trust: float, shift: int = 0) -> tuple[int, int]:
    """How often the first-ranked child was accepted, and of how many."""
    hits = tried = 0
    for seed in range(25):
        draft = chain_draft(seed)
        trees = build_trees(draft, torch.tensor([seed]), 16, 8, ranking(trust, POSITION + shift))
        found = walked(draft, seed, trees)
        parents, scores = trees.parent_SN[0].tolist(), trees.logprob_SN[0]
        for at, parent in enumerate([-1, *found.nodes]):
            children = [node for node, above in enumerate(parents) if above == parent]
            if children:
                first = max(children, key=lambda node: float(scores[node]))
                hits += at < len(found.nodes) and found.nodes[at] == first
                tried += 1
    return hits, tried


def test_heads_that_know_the_target_rank_its_choice_first() -> None:
    hits, tried = accepted(1.0)
    assert hits == tried > 40


@pytest.mark.parametrize("shift", [-1, 1])
def test_noise_of_another_position_is_of_no_use(shift: int) -> None:
    hits, tried = accepted(1.0, shift)
    assert hits < tried / 2


@pytest.mark.parametrize("markov", [False, True])
def test_probabilities_are_the_mixture(markov: bool) -> None:
    draft = chain_draft(0)
    if not markov:
        generator = torch.Generator().manual_seed(1)
        draft = Draft(torch.randn(1, HEADS, VOCAB, generator=generator, dtype=torch.float64))
    trees = build_trees(draft, torch.tensor([5]), 20, 10, ranking(0.4))
    assert trees.share_SN is not None
    for node in range(20):
        parent, depth = int(trees.parent_SN[0, node]), int(trees.depth_SN[0, node])
        before = 5 if parent < 0 else int(trees.token_SN[0, parent])
        logp_V = draft.log_probs(depth - 1, torch.tensor([[before]]))[0, 0]
        noise_V = gumbel([noise_key(SEED, 1, 2, POSITION + depth - 1)], torch.arange(VOCAB))[0]
        by_noise_V = 0.4 * (logp_V / TEMPERATURE + noise_V).softmax(-1)
        mixed_V = 0.6 * logp_V.exp() + by_noise_V
        token = int(trees.token_SN[0, node])
        above = 0.0 if parent < 0 else float(trees.logprob_SN[0, parent])
        assert abs(float(trees.logprob_SN[0, node]) - above - float(mixed_V[token].log())) < 1e-6
        assert abs(float(trees.share_SN[0, node] - by_noise_V[token] / mixed_V[token])) < 1e-6


def test_greedy_sequences_beside_sampled_ones_keep_their_trees() -> None:
    logits = torch.randn(2, HEADS, VOCAB, generator=torch.Generator().manual_seed(3))
    mixed = NoiseRanking(np.array([0.0, 1.0]), np.array([5, 6]), np.array([9, 9]), np.full(HEADS, 0.5))
    roots = torch.tensor([1, 2])
    plain, ranked = (build_trees(Draft(logits), roots, 12, 6, how) for how in (None, mixed))
    assert torch.equal(plain.token_SN[0], ranked.token_SN[0])
    assert torch.equal(plain.parent_SN[0], ranked.parent_SN[0])
    torch.testing.assert_close(plain.logprob_SN[0], ranked.logprob_SN[0])
    assert not torch.equal(plain.token_SN[1], ranked.token_SN[1])
    assert ranked.share_SN is not None
    assert not ranked.share_SN[0].any()
    assert mixed.ranked_S.tolist() == [False, True]


def test_heads_of_some_tokens_get_the_noise_of_those_tokens() -> None:
    ids = torch.arange(3, VOCAB, 2)
    whole = torch.full((1, HEADS, VOCAB), -1e9, dtype=torch.float64)
    part = torch.randn(1, HEADS, len(ids), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    whole[:, :, ids] = part
    root = torch.tensor([3])
    expected = build_trees(Draft(whole), root, 12, 6, ranking(0.5))
    trees = build_trees(Draft(part, ids_V=ids), root, 12, 6, ranking(0.5))
    assert torch.equal(trees.token_SN, expected.token_SN)
    torch.testing.assert_close(trees.logprob_SN, expected.logprob_SN)


def test_nothing_is_ranked_for_greedy_batches_or_without_trust() -> None:
    greedy = SimpleNamespace(sampling=SamplingParams(temperature=0.0), stream=1, tokens=[1])
    warm = SimpleNamespace(sampling=SamplingParams(temperature=0.5), stream=2, tokens=[1, 2])
    trust = np.full(2, 0.3)
    assert NoiseRanking.of([greedy], trust) is None  # type: ignore[list-item]
    assert NoiseRanking.of([greedy, warm], None) is None  # type: ignore[list-item]
    found = NoiseRanking.of([greedy, warm], trust)  # type: ignore[list-item]
    assert found is not None
    assert found.position_S.tolist() == [1, 2]
    assert found.ranked_S.tolist() == [False, True]


@pytest.mark.parametrize("kernels", ["off", "wait"])
def test_the_engine_ranks_by_the_noise_that_it_chooses_with(
    byte_tokenizer, recall_drafter, decode, kernels: str
) -> None:
    """All tokens are about equally likely, so noise decides, and heads that know nothing guess right."""
    config = TargetConfig.tiny("llama", False, 256)
    target = random_target(config, 0, torch.float64, logit_scale=1e-3)
    loaded = LoadedTarget(target, byte_tokenizer, config, "tiny", "tiny", Path())

    class Ignorant(recall_drafter):  # type: ignore[misc, valid-type]
        def draft(self, state: object, ring: object, slots: list[int]) -> Draft:
            return Draft(torch.zeros(len(slots), 4, 256, dtype=torch.float64))

    requests = [
        GenerationRequest(
            f"r{index}",
            tuple(range(1, 2 + index)),
            SamplingParams(temperature=1.0, max_tokens=40, seed=9, ignore_eos=True),
            prompt_index=index // 2,
            choice_index=index % 2,
        )
        for index in range(4)
    ]
    outputs, steps = [], []
    for noise_ranked in (False, True):
        engine = Engine(
            loaded,
            EngineConfig(
                max_sequences=4,
                speculation="always",
                kernels=kernels,  # type: ignore[arg-type]
                noise_ranked=noise_ranked,
                ngram=False,
            ),
        )
        engine.set_drafter(Ignorant([], 1.0, 0), "v")
        outputs.append(decode(engine, requests))
        steps.append(engine.steps)
    assert outputs[0] == outputs[1]
    assert steps[1] < 0.6 * steps[0]
