"""Compiled trees are torch's, ranked by noise or not."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

from online_draft.decoding.drafting.ranking import NoiseRanking
from online_draft.decoding.drafting.tree import build_trees
from online_draft.decoding.noise import gumbel, noise_key, stream_key
from online_draft.models.drafter import Draft, MarkovTerm
from online_draft.models.native.pack import Packing
from online_draft.models.native.pool import Pool
from online_draft.models.native.trees import NativeTrees

HEADS = 4
TEMPERATURES = (0.0, 0.3, 0.7, 1.0, 1.6)


def ranking(seed: int, trust: float) -> NoiseRanking:
    count = len(TEMPERATURES)
    rng = np.random.default_rng(seed)
    streams = [stream_key(seed - 2, index, 0) for index in range(count)]
    trust_D = trust * rng.uniform(0.3, 1.0, HEADS)
    return NoiseRanking(np.array(TEMPERATURES), np.array(streams), rng.integers(0, 9000, count), trust_D)


@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("markov", [False, True])
@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trees_equal_torch(
    library: ctypes.CDLL, ranked: bool, markov: bool, trimmed: bool, dtype: torch.dtype
) -> None:
    whole, vocab = 1500, 700 if trimmed else 1500
    ids = torch.sort(torch.randperm(whole, generator=torch.Generator().manual_seed(9))[:vocab]).values
    term = None
    if markov:
        generator = torch.Generator().manual_seed(1)
        # Small integers and a packing in full precision: no rounding but that of softmax.
        made = [torch.randint(-1, 2, (n, 8), generator=generator).to(dtype) / 2 for n in (whole, vocab)]
        term = MarkovTerm(*made)
    packing = Packing(library, dtype, half=False)
    native = NativeTrees(packing, Pool(library, 2), term, ids if trimmed else None)
    compared = 0
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(len(TEMPERATURES), HEADS, vocab, generator=generator, dtype=dtype)
        roots = torch.randint(0, whole, (len(TEMPERATURES),), generator=generator)
        how = ranking(seed, 1.0 if seed % 3 == 0 else 0.5) if ranked else None
        nodes, width = 6 + seed, 3 + seed % 6
        expected = build_trees(Draft(logits, term, ids if trimmed else None), roots, nodes, width, how)
        token, parent, depth, logprob, share, filled = native.build(logits, roots.tolist(), nodes, width, how)
        assert (share is None) == (not ranked)
        assert filled.tolist() == [nodes] * len(TEMPERATURES)
        for row in range(len(TEMPERATURES)):
            own = paths(token[row], parent[row])
            theirs = paths(expected.token_SN[row].numpy(), expected.parent_SN[row].numpy())
            tolerance = 1e-4 if dtype == torch.float32 else 1e-8
            worst = min(logprob[row])
            for path in own.keys() | theirs.keys():
                if path not in own or path not in theirs:
                    # Rounding may swap the last ones.
                    assert dtype == torch.float32
                    here = path in own
                    last = logprob[row, own[path]] if here else expected.logprob_SN[row, theirs[path]]
                    assert abs(float(last) - worst) < tolerance
                    continue
                mine, other = own[path], theirs[path]
                assert abs(logprob[row, mine] - float(expected.logprob_SN[row, other])) < tolerance
                assert depth[row, mine] == int(expected.depth_SN[row, other]) == len(path)
                if share is not None:
                    assert expected.share_SN is not None
                    assert abs(share[row, mine] - float(expected.share_SN[row, other])) < tolerance
                compared += 1
    assert compared > 500


def test_noise_of_a_position_is_verifications(library: ctypes.CDLL) -> None:
    """Heads without an opinion and full trust: the first node is the position's largest noise."""
    vocab = 333
    native = NativeTrees(Packing(library, torch.float32, half=False), Pool(library, 1))
    for seed in range(40):
        how = NoiseRanking(
            np.array([1.0]), np.array([stream_key(seed, 3, 4)]), np.array([seed]), np.ones(HEADS)
        )
        token, _, depth, *_ = native.build(torch.zeros(1, HEADS, vocab), [0], 300, 8, how)
        for level in range(HEADS):
            first = token[0][depth[0] == level + 1][0]
            noise = gumbel([noise_key(seed, 3, 4, seed + level)], torch.arange(vocab))[0]
            assert first == int(noise.argmax())


def test_a_ranking_for_other_sequences_is_refused(library: ctypes.CDLL) -> None:
    native = NativeTrees(Packing(library, torch.float32, half=False), Pool(library, 1))
    with pytest.raises(ValueError, match="other sequences"):
        native.build(torch.zeros(2, HEADS, 32), [0, 1], 4, 4, ranking(0, 0.5))


def paths(token_N: np.ndarray, parent_N: np.ndarray) -> dict[tuple[int, ...], int]:
    """Node by path."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(token_N.tolist(), parent_N.tolist(), strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return {path: node for node, path in enumerate(found)}
