"""A drafter with an adapter folded into its weights: what training and the gate look at."""

from __future__ import annotations

from typing import TypeVar

import torch

from online_draft.models.adapters.adapter import Adapter
from online_draft.models.drafter import Drafter

D = TypeVar("D", bound=Drafter)


@torch.no_grad()
def merged(drafter: D, adapter: Adapter) -> D:
    """A frozen copy that drafts as `drafter` does with `adapter`. ArtifactError when they don't fit."""
    adapter.check(drafter)
    copy = drafter.clone().requires_grad_(False).eval()
    for name, weight in adapter.weights.items():
        change_OI = weight.up_OR @ weight.down_RI
        copy.adapter_weight_OI(name).add_(change_OI.to(next(copy.parameters())))
    return copy
