"""Trust in noise: learnt from what walks take, whatever part of the vocabulary was drafted."""

from __future__ import annotations

import numpy as np
import pytest

from online_draft.decoding.policy.trust import NoiseTrust, prior_trust

DEPTHS, TOKENS, DRAFTED = 3, 50, 6


def learn(trust: NoiseTrust, truth: float, steps: int, seed: int, drafted: int = DRAFTED) -> None:
    """Steps in which the target's choice comes from the noise's part with probability `truth`."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        place, probability, share, hit = [], [], [], []
        for depth in range(DEPTHS):
            heads, noise = rng.dirichlet(np.full(TOKENS, 0.1)), rng.dirichlet(np.full(TOKENS, 0.1))
            chosen = rng.choice(TOKENS, p=noise if rng.random() < truth else heads)
            weight = trust.trust_D[depth]
            mixed = (1 - weight) * heads + weight * noise
            best = np.argsort(-mixed)[:drafted]
            place += [depth + DEPTHS * step] * drafted
            probability += mixed[best].tolist()
            share += (weight * noise[best] / mixed[best]).tolist()
            hit += (best == chosen).tolist()
        trust.observe(np.array(place), np.array(probability), np.array(share), np.array(hit))
        if step % 16 == 15:
            trust.update(1.0)


@pytest.mark.parametrize("truth", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("drafted", [2, 6])
def test_finds_how_much_of_the_choices_is_noise(truth: float, drafted: int) -> None:
    trust = NoiseTrust(DEPTHS)
    learn(trust, truth, 800, 0, drafted)
    np.testing.assert_allclose(trust.trust_D, truth, atol=0.12)


def test_follows_another_kind_of_traffic() -> None:
    trust = NoiseTrust(DEPTHS)
    learn(trust, 0.1, 800, 1)
    learn(trust, 0.8, 1600, 2)
    np.testing.assert_allclose(trust.trust_D, 0.8, atol=0.15)


def test_begins_with_the_prior_and_returns_to_it() -> None:
    trust = NoiseTrust(DEPTHS)
    assert trust.trust_D.tolist() == prior_trust(DEPTHS).tolist()
    trust.update(1.0)
    np.testing.assert_allclose(trust.trust_D, prior_trust(DEPTHS), atol=0.02)
    before = trust.trust_D
    learn(trust, 0.9, 300, 3)
    learnt = trust.trust_D
    trust = trust.heir(0.0)
    np.testing.assert_allclose(trust.trust_D, before)
    assert (learnt > before + 0.3).all()


def test_is_laid_out_for_compiled_code() -> None:
    trust = NoiseTrust(DEPTHS)
    learn(trust, 0.5, 16, 4)
    assert trust.trust_D.flags.c_contiguous
    assert trust.trust_D.dtype == np.float64


def test_nothing_seen_changes_nothing() -> None:
    trust = NoiseTrust(DEPTHS)
    trust.update(0.0)
    before = trust.trust_D
    nothing = np.zeros(0)
    trust.observe(nothing.astype(np.int64), nothing, nothing, nothing.astype(np.bool_))
    trust.update(0.0)
    assert np.array_equal(before, trust.trust_D)
