"""Heads that score some of the target's tokens only (VocabTrim, Goel et al. 2025), and changing which.

A token outside is never drafted, so the target's own choice stands there and no output changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from online_draft.errors import ArtifactError
from online_draft.models.drafter import Drafter

D = TypeVar("D", bound=Drafter)

_BY_TOKEN = {"markov_output_VR": 0, "vocabulary_KVF": 1}
"""Parameters with a row for each scored token, and in which dimension."""


def check_draft_ids(drafter: Drafter) -> None:
    """ArtifactError unless the tokens that heads score are ascending ids of the target's vocabulary."""
    ids_V, vocab = drafter.draft_ids_V, drafter.config.vocab_size
    if ids_V is None:
        return
    ascending = bool((ids_V.diff() > 0).all())
    if not ascending or int(ids_V[0]) < 0 or int(ids_V[-1]) >= vocab:
        raise ArtifactError(f"draft_ids_V must be ascending token ids from 0 to {vocab - 1}")


@torch.no_grad()
def retrimmed(drafter: D, draft_vocab: Tensor | None) -> D:
    """A copy that scores these tokens (ascending ids; None: all), bound to the same target.

    What was learnt about a token goes along with it. A token that wasn't scored before starts as the target's
    LM head has it.
    """
    size = 0 if draft_vocab is None else len(draft_vocab)
    copy = type(drafter)(replace(drafter.config, draft_vocab_size=size))
    reference = next(drafter.parameters())
    copy.to(reference.device, reference.dtype)
    if draft_vocab is not None:
        copy.assign_draft_ids(draft_vocab)
    check_draft_ids(copy)
    copy.start_from(drafter.shared)
    place_V = token_places(drafter)
    if place_V is None:
        place_V = torch.arange(drafter.config.vocab_size, device=reference.device)
    place_X = place_V if copy.draft_ids_V is None else place_V[copy.draft_ids_V]
    kept_X = place_X >= 0
    for name, parameter in copy.named_parameters():
        before = drafter.get_parameter(name)
        if name in _BY_TOKEN:
            dim = _BY_TOKEN[name]
            parameter.index_copy_(dim, kept_X.nonzero().squeeze(1), before.index_select(dim, place_X[kept_X]))
        else:
            parameter.copy_(before)
    return copy


def token_places(drafter: Drafter) -> Tensor | None:
    """Where heads score each token of the vocabulary, -1 where they don't; None if they score all."""
    ids_V = drafter.draft_ids_V
    if ids_V is None:
        return None
    place_V = torch.full((drafter.config.vocab_size,), -1, device=ids_V.device)
    place_V[ids_V] = torch.arange(len(ids_V), device=ids_V.device)
    return place_V
