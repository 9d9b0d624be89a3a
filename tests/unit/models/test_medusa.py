from __future__ import annotations

import torch

from online_draft.models.config import TargetConfig
from online_draft.models.loading import random_target
from online_draft.models.medusa import Medusa, MedusaConfig
from online_draft.models.ring import FeatureRing

TARGET = random_target(TargetConfig.tiny("llama", False, 40), dtype=torch.float64)
SIZE = TARGET.config.hidden_size


def make() -> Medusa:
    drafter = Medusa(MedusaConfig(SIZE, 40, num_heads=3, window=8)).double()
    drafter.start_from(TARGET)
    return drafter


def test_untrained_heads_repeat_the_target() -> None:
    hidden = torch.randn(5, 1, SIZE, dtype=torch.float64)
    drafter = make()
    with torch.no_grad():
        drafter.bias_KF.zero_()
        logits = drafter.heads(hidden)
    torch.testing.assert_close(logits, TARGET.logits(hidden).expand(5, 3, 40))


def test_only_the_newest_row_of_each_slot_counts() -> None:
    drafter = make()
    torch.manual_seed(1)
    with torch.no_grad():
        drafter.residual_KFF.normal_()
    hidden = torch.randn(2, 20, SIZE, dtype=torch.float64)
    tokens = torch.zeros(20, dtype=torch.int64)
    ring = FeatureRing(2, 8, SIZE, torch.float64)
    state = drafter.new_state(2)
    for count in (3, 9, 20):
        for slot in range(2):
            ring.append(slot, hidden[slot, ring.end[slot] : count], tokens[ring.end[slot] : count])
        drafted = drafter.draft(state, ring, [1, 0]).base_logits_SKV
        with torch.no_grad():
            expected = drafter.heads(drafter.context(hidden, tokens.expand(2, -1))[[1, 0], count - 1])
        torch.testing.assert_close(drafted, expected)


def test_heads_learn_from_the_same_interface_as_amphista() -> None:
    drafter = make()
    hidden = torch.randn(2, 9, SIZE, dtype=torch.float64)
    tokens = torch.zeros(2, 9, dtype=torch.int64)
    anchors = torch.tensor([[1, 4], [2, 8]])
    logits = drafter.head_logits(hidden, tokens, anchors, torch.zeros(2, 2, 3, dtype=torch.int64))
    assert logits.shape == (2, 2, 3, 40)
    with torch.no_grad():
        torch.testing.assert_close(logits[1, 1], drafter.heads(hidden[1, 8:9].unsqueeze(1))[0])
