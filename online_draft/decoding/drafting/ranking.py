"""Ranking a draft's candidates by the noise that the target will choose with.

Shapes: S sequences, W parents, D depths, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Sequences
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_draft.decoding.noise import keyed_gumbel, near_gumbel, position_keys
from online_draft.decoding.sequence import Sequence

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NoiseRanking:
    """What trees need to know of each sequence's noise. Host side.

    A candidate's probability given its parent is (1 - w) q + w softmax(log q / T + g): with probability w
    the heads know the target's distribution, and then the noise g decides; else their own is the best guess.
    w is the trust in a depth. `temperature_S` 0: no noise, q as it is. `stream_S`: `Sequence.stream`.
    `position_S`: where the token behind the root comes. top_p, top_k and min_p are left out of account.
    """

    temperature_S: Floats
    stream_S: Ints
    position_S: Ints
    trust_D: Floats

    @classmethod
    def of(cls, sequences: Sequences[Sequence], trust_D: Floats | None) -> NoiseRanking | None:
        """For sequences at their newest token; None where none is sampled or nothing is to be ranked so."""
        if trust_D is None or all(sequence.sampling.temperature == 0 for sequence in sequences):
            return None
        return cls(
            np.array([sequence.sampling.temperature for sequence in sequences], np.float64),
            np.array([sequence.stream for sequence in sequences], np.int64),
            np.array([len(sequence.tokens) for sequence in sequences], np.int64),
            trust_D,
        )

    @property
    def ranked_S(self) -> NDArray[np.bool_]:
        """Which sequences are sampled."""
        return self.temperature_S > 0


class NoiseScores:
    """A `NoiseRanking` at work on one device, depth after depth. Never waits for the device."""

    def __init__(self, ranking: NoiseRanking, token_ids_V: Tensor) -> None:
        device = token_ids_V.device
        self._token_ids_V = token_ids_V
        self._keys = torch.from_numpy(np.stack((ranking.stream_S, ranking.position_S))).to(device)
        warm_S = ranking.ranked_S
        temperature_S = np.where(warm_S, ranking.temperature_S, 1.0)
        with np.errstate(divide="ignore"):
            own_DS = np.log1p(-ranking.trust_D[:, None] * warm_S)
            noise_DS = np.log(ranking.trust_D[:, None] * warm_S)
        self._scales = torch.from_numpy(np.concatenate((temperature_S[None], own_DS, noise_DS))).to(device)
        self._depths = len(ranking.trust_D)

    def __call__(self, depth: int, logp_SWV: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities at this depth (0 below the root) given log q, and those of the noise's part."""
        dtype = torch.promote_types(logp_SWV.dtype, torch.float32)
        temperature_S11, own_S11, part_S11 = (
            self._scales[row].to(dtype)[:, None, None] for row in (0, 1 + depth, 1 + self._depths + depth)
        )
        stream_S, position_S = self._keys
        noise = keyed_gumbel if dtype == torch.float64 else near_gumbel
        noise_SV = noise(position_keys(stream_S, position_S + depth), self._token_ids_V)
        logp_SWV = logp_SWV.to(dtype)
        perturbed_SWV = logp_SWV / temperature_S11 + noise_SV.unsqueeze(1)
        noisy_SWV = perturbed_SWV.log_softmax(-1) + part_S11
        return torch.logaddexp(logp_SWV + own_S11, noisy_SWV), noisy_SWV
