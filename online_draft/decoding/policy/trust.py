"""How far a draft's ranking follows the request's own noise: one weight by depth, learnt while serving.

Shapes: D depths, X nodes below accepted walks, P places (a walk's node and the depth below it), G weights
on a grid.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_PRIOR = 0.3
_PRIOR_FALLS = 0.88
"""Trust to begin with, and what each further depth leaves of it: measured on the embedded target, where it
ends between 0.2 and 0.4 in the first depth at temperatures from 0.3 to 1.3."""
_PRIOR_WEIGHT = 6.0
"""Pseudo-observations that say so."""
_KEEP = 0.98
"""What an update leaves of the older observations."""
_GRID_G = np.linspace(0.01, 0.99, 50)


def prior_trust(depths: int) -> Floats:
    """Trust before anything was seen, [D]."""
    return _PRIOR * _PRIOR_FALLS ** np.arange(depths, dtype=np.float64)


@cache
def _prior(depths: int) -> Floats:
    """Log of the prior on the grid, [D, G]. Not to be written to."""
    prior_D1 = prior_trust(depths)[:, None]
    for_noise_D1, for_heads_D1 = _PRIOR_WEIGHT * prior_D1 - 1, _PRIOR_WEIGHT * (1 - prior_D1) - 1
    prior_DG: Floats = for_noise_D1 * np.log(_GRID_G) + for_heads_D1 * np.log1p(-_GRID_G)
    return prior_DG


class NoiseTrust:
    """The weight w of `NoiseRanking` by depth: the mean of its posterior on a grid, with forgetting.

    Below a walk's node the target chose one of the drafted children or something else. Both have a
    probability under every w, because the children come with both parts of their mixture. Choices that
    weren't drafted count as one event, so how a drafter spreads its rest over the vocabulary doesn't matter.
    """

    def __init__(self, depths: int) -> None:
        self.trust_D = prior_trust(depths)
        """Not to be written to; replaced by `update`."""
        self._prior_DG = _prior(depths)
        self._seen_DG = np.zeros((depths, len(_GRID_G)))

    def observe(self, place_X: Ints, probability_X: Floats, share_X: Floats, hit_X: Bools) -> None:
        """Drafted children with their probabilities under `trust_D` as it is now, the noise's part of them,
        and whether they were taken. Children of one node share a place, which is congruent to their depth
        (0 below the root) modulo D."""
        if not len(place_X):
            return
        used_P, group_X = np.unique(place_X, return_inverse=True)
        depth_P = used_P % len(self.trust_D)
        trust_P = self.trust_D.take(depth_P)
        noise_X = probability_X * share_X
        parts = (noise_X, trust_P), (probability_X - noise_X, 1.0 - trust_P)
        chances = []
        for part_X, weight_P in parts:
            taken_P = np.bincount(group_X, part_X * hit_X) / weight_P
            missed_P = np.maximum(1.0 - np.bincount(group_X, part_X) / weight_P, 0.0)
            hit_P = np.bincount(group_X, hit_X) > 0
            chances.append(np.maximum(np.where(hit_P, taken_P, missed_P), 1e-6)[:, None])
        by_noise_P1, by_heads_P1 = chances
        likelihood_PG = _GRID_G * by_noise_P1 + (1.0 - _GRID_G) * by_heads_P1
        np.add.at(self._seen_DG, depth_P, np.log(likelihood_PG))

    def update(self, share: float) -> None:
        """Draft by what was observed from now on; forget as much as this share of an update forgets."""
        posterior_DG = self._prior_DG + self._seen_DG
        posterior_DG = np.exp(posterior_DG - posterior_DG.max(1, keepdims=True))
        self.trust_D = (posterior_DG @ _GRID_G) / posterior_DG.sum(1)
        self._seen_DG *= _KEEP**share

    def heir(self, keep: float) -> NoiseTrust:
        """One that starts from what was observed here, weighed down."""
        heir = NoiseTrust(len(self.trust_D))
        heir._seen_DG = keep * self._seen_DG
        heir.update(0.0)
        return heir
