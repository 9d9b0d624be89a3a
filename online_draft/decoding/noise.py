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


def stream_key(seed: int, prompt_index: int, choice_index: int) -> int:
    """Hash of what a sequence's noise has in common at all positions. Any integer seed is accepted."""
    key = _mix((seed + _GOLDEN) & _MASK)
    for value in (prompt_index, choice_index):
        key = _mix((key + (value + 1) * _GOLDEN) & _MASK)
    return _signed(key)


def position_key(stream: int, position: int) -> int:
    """Hash of everything but the token id: a sequence's `stream_key` at one position."""
    return _signed(_mix((stream + (position + 1) * _GOLDEN) & _MASK))


def noise_key(seed: int, prompt_index: int, choice_index: int, position: int) -> int:
    """Hash of everything but the token id, as a signed 64-bit integer. Any integer seed is accepted."""
    return position_key(stream_key(seed, prompt_index, choice_index), position)


def position_keys(stream_X: Tensor, position_X: Tensor) -> Tensor:
    """`position_key` of many streams and positions (int64, shapes that broadcast), on their device."""
    return _hashed(stream_X, position_X)


def gumbel(keys: Sequence[int], token_ids_V: Tensor) -> Tensor:
    """Standard Gumbel noise [P, V] in float32 for P keys (see `noise_key`) and the given token ids (int64).

    Computed in float64 from 53 hashed bits and rounded once, so that devices agree bit for bit but for
    logarithms that fall on a float32 rounding boundary.
    """
    keys_P = torch.tensor(keys, dtype=torch.int64, device=token_ids_V.device)
    return keyed_gumbel(keys_P, token_ids_V)


def keyed_gumbel(keys_P: Tensor, token_ids_V: Tensor) -> Tensor:
    """`gumbel` for keys that are on the device already."""
    bits_PV = _shift(_hashed(keys_P.unsqueeze(1), token_ids_V), 11)
    uniform_PV = bits_PV.to(torch.float64).add_(0.5).mul_(2.0**-53)
    return uniform_PV.log_().neg_().log_().neg_().to(torch.float32)


def near_gumbel(keys_P: Tensor, token_ids_V: Tensor) -> Tensor:
    """`keyed_gumbel` in float32 arithmetic, faster on most devices: good for guesses, not for choices.

    Off by less than 1e-5 above -2, where nearly all of it lies, and less than 1e-2 below.
    """
    rest_PV = (~_hashed(keys_P.unsqueeze(1), token_ids_V) >> 11).bitwise_and_((1 << 53) - 1)
    beyond_PV = rest_PV.to(torch.float32).add_(0.5).mul_(2.0**-53)
    return beyond_PV.neg_().log1p_().neg_().log_().neg_()


def _hashed(key: Tensor, value: Tensor) -> Tensor:
    """One round of the hash: `value` taken into `key`."""
    z = key + (value + 1) * _signed(_GOLDEN)
    z = (z ^ _shift(z, 30)).mul_(_signed(_MIX_1))
    z = (z ^ _shift(z, 27)).mul_(_signed(_MIX_2))
    return z ^ _shift(z, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)
