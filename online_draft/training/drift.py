"""What tells harder traffic from a worse drafter: likeliest tokens that were right, and the target's entropy.

Shapes: B records, T positions, P positions of one record, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from online_draft.models.drafter import Drafter
from online_draft.models.target import Target
from online_draft.training.features import Features
from online_draft.training.replay import replay_features

NODES = 16
"""Of every tree: neither load nor settings move what is measured."""

_MOST_POSITIONS = 64


@dataclass(frozen=True, slots=True)
class FirstChoices:
    """One record: `tried[k]` looks at the likeliest token of depth k + 1, `hits[k]` of them right."""

    hits: tuple[int, ...]
    tried: tuple[int, ...]


def first_choices(drafter: Drafter, features: Features) -> list[FirstChoices]:
    """By record, replayed with a tree of 16 nodes."""
    results = replay_features(drafter, features, NODES, first_choices=True)
    return [FirstChoices(tuple(result.first_hits), tuple(result.first_tried)) for result in results]


@torch.inference_mode()
def output_entropies(target: Target, features: Features) -> list[tuple[float, int]]:
    """By record: the sum of the target's entropies (nats, temperature 1) where output tokens were chosen, and
    how many places that were; of long outputs 64, evenly spaced."""
    found: list[tuple[float, int]] = []
    bounds = zip(features.starts_B.tolist(), features.lengths_B.tolist(), strict=True)
    for row, (start, end) in enumerate(bounds):
        count = max(0, min(_MOST_POSITIONS, end - start))
        place_P = torch.linspace(max(0, start - 1), max(0, end - 2), count).round().long()
        logits_PV = target.logits(features.hidden_BTF[row, place_P.to(features.hidden_BTF.device)])
        logp_PV = logits_PV.float().log_softmax(-1)
        found.append((float(-(logp_PV.exp() * logp_PV).sum()), count))
    return found
