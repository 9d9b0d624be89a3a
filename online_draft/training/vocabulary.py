"""Which tokens draft heads score: those that the target was seen to emit (VocabTrim, Goel et al. 2025)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_draft.errors import ConfigError

PAYS_FROM = 1 << 16
"""Vocabularies below keep all their tokens unless asked otherwise."""
MOST = 1 << 15
_MULTIPLE = 64


def emitted_tokens(outputs: Iterable[NDArray[np.int64]], vocab_size: int) -> NDArray[np.int64]:
    """How often each token occurs in these outputs, int64 [vocab_size]."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for tokens in outputs:
        counts += np.bincount(tokens, minlength=vocab_size)
    return counts


def choose_draft_vocab(
    counts: NDArray[np.int64], size: int | None, always: Iterable[int] = ()
) -> Tensor | None:
    """Sorted ids for the heads, int64, or None for all of them.

    `size` None decides by the vocabulary: from 65,536 tokens on at most 32,768, never more than were
    emitted (rounded up to a multiple of 64); 0 is all tokens; else that many. Most frequent first, then the
    lowest ids. `always` (the end of a text) is in whatever the counts say. ConfigError naming `draft_vocab`.
    """
    vocab = len(counts)
    forced = np.array(sorted({token for token in always if 0 <= token < vocab}), dtype=np.int64)
    if size == 0 or (size is None and vocab < PAYS_FROM):
        return None
    if size is None:
        seen = counts > 0
        seen[forced] = True
        size = min(MOST, -(-max(1, int(seen.sum())) // _MULTIPLE) * _MULTIPLE)
    if size < max(1, len(forced)):
        raise ConfigError("draft_vocab", f"must be 0 (all) or at least {max(1, len(forced))}, got {size}")
    if size >= vocab:
        return None
    ranked = counts.copy()
    ranked[forced] = np.iinfo(np.int64).max
    return torch.from_numpy(np.sort(np.argsort(-ranked, kind="stable")[:size]))


def refreshed_vocab(ids_V: Tensor, counts: NDArray[np.int64]) -> Tensor:
    """As many ids, ascending: those emitted lately, most frequent first, then those that were there."""
    before = np.zeros(len(counts), dtype=np.int64)
    before[ids_V.cpu().numpy()] = 1
    order = np.argsort(-(2 * counts + before), kind="stable")
    return torch.from_numpy(np.sort(order[: len(ids_V)])).to(ids_V.device)
