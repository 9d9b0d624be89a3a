"""Gumbel noise from an integer hash: the one source of randomness in decoding.

The noise of a token depends on (seed, prompt index, choice index, absolute position, token id) and on
nothing else, so that plain and speculative decoding, any batch and any replica draw the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The 64-bit pattern of `value` as torch's int64 holds it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _mix(value: int) -> int:
    """splitmix64's finalizer (Steele et al., 2014) on a Python integer."""
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def noise_key(seed: int, prompt_index: int, choice_index: int, position: int) -> int:
    """Hash of everything but the token id, as a signed 64-bit integer. Any integer seed is accepted."""
    key = _mix((seed + _GOLDEN) & _MASK)
    for value in (prompt_index, choice_index, position):
        key = _mix((key + (value + 1) * _GOLDEN) & _MASK)
    return _signed(key)


def gumbel(keys: Sequence[int], token_ids_V: Tensor) -> Tensor:
    """Standard Gumbel noise [P, V] in float32 for P keys (see `noise_key`) and the given token ids (int64).

    Computed in float64 from 53 hashed bits and rounded once, so that devices agree bit for bit but for
    logarithms that fall on a float32 rounding boundary.
    """
    keys_P1 = torch.tensor(keys, dtype=torch.int64, device=token_ids_V.device).unsqueeze(1)
    z = keys_P1 + (token_ids_V + 1) * _signed(_GOLDEN)
    z = (z ^ _shift(z, 30)).mul_(_signed(_MIX_1))
    z = (z ^ _shift(z, 27)).mul_(_signed(_MIX_2))
    z = z ^ _shift(z, 31)
    uniform = _shift(z, 11).to(torch.float64).add_(0.5).mul_(2.0**-53)
    return uniform.log_().neg_().log_().neg_().to(torch.float32)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)
