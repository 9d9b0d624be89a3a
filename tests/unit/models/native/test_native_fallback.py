"""Drafters with parts that the kernels lack: torch runs their heads, kernels the trees."""

from __future__ import annotations

import ctypes

import pytest
import torch

from online_draft.decoding.drafting.tree import build_trees
from online_draft.models.amphista import Amphista
from online_draft.models.artifact import new_drafter
from online_draft.models.config import TargetConfig
from online_draft.models.drafter import Draft
from online_draft.models.loading import random_target
from online_draft.models.native.backend import NativeBackend
from online_draft.models.ring import FeatureRing


@pytest.mark.parametrize("context", [0, 6])
def test_trees_of_a_block_with_context_are_torchs(library: ctypes.CDLL, context: int) -> None:
    target = random_target(TargetConfig.tiny("llama", False, 60), dtype=torch.float64)
    size = target.config.hidden_size
    drafter = new_drafter("amphista", target, window=12, num_heads=3, block_context=context)
    assert isinstance(drafter, Amphista)
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.normal_(std=0.3)
    drafting = NativeBackend(library, target, threads=1).drafting(drafter, drafter.new_state(2))
    ring, state = FeatureRing(2, 12, size, torch.float64), drafter.new_state(2)
    generator = torch.Generator().manual_seed(0)
    for rows in (9, 2, 30, 1):
        for slot in range(2):
            hidden = torch.randn(rows, size, generator=generator, dtype=torch.float64)
            ring.append(slot, hidden, torch.randint(0, 60, (rows,), generator=generator))
        roots = torch.tensor([4, 50])
        token_SN, parent_SN = drafting.trees(ring, [0, 1], roots.tolist(), 8, 4)[:2]
        draft: Draft = drafter.draft(state, ring, [0, 1])
        expected = build_trees(draft, roots, 8, 4)
        assert torch.equal(torch.from_numpy(token_SN).long(), expected.token_SN)
        assert torch.equal(torch.from_numpy(parent_SN).long(), expected.parent_SN)
