"""Noise: fixed by its arguments alone, Gumbel-distributed."""

import math

import torch

from online_draft.decoding.noise import gumbel, noise_key

TOKENS = torch.arange(512)


def test_noise_of_a_token_does_not_depend_on_its_neighbours() -> None:
    keys = [noise_key(7, 0, 0, position) for position in range(5)]
    together = gumbel(keys, TOKENS)
    for index, key in enumerate(keys):
        assert torch.equal(gumbel([key], TOKENS)[0], together[index])
    assert torch.equal(gumbel(keys, TOKENS[100:110]), together[:, 100:110])


def test_every_argument_changes_the_noise() -> None:
    base = (7, 1, 2, 3)
    keys = {noise_key(*base)}
    for place in range(4):
        for change in (1, 2, -5, 1 << 40):
            changed = list(base)
            changed[place] += change
            keys.add(noise_key(*changed))
    assert len(keys) == 1 + 4 * 4


def test_huge_and_negative_seeds_are_accepted() -> None:
    for seed in (-1, -(2**63), 2**63, 2**64 - 1, 2**80):
        assert torch.isfinite(gumbel([noise_key(seed, 0, 0, 0)], TOKENS)).all()


def test_noise_is_gumbel_distributed() -> None:
    keys = [noise_key(3, 0, 0, position) for position in range(400)]
    sample = gumbel(keys, TOKENS).double().flatten()
    assert abs(float(sample.mean()) - 0.5772156649) < 0.01
    assert abs(float(sample.var()) - math.pi**2 / 6) < 0.03
    below = torch.exp(-torch.exp(-sample))
    for quantile in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert abs(float((below < quantile).double().mean()) - quantile) < 0.005


def test_values_are_frozen() -> None:
    """Recorded outputs must be reproducible by later versions."""
    expected = torch.tensor([-0.6881492137908936, 0.3978056013584137, 0.34014058113098145, 1.71146559715271])
    assert torch.equal(gumbel([noise_key(42, 0, 0, 17)], torch.arange(4))[0], expected)
