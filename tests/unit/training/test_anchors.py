from __future__ import annotations

import torch

from online_draft.training.anchors import sample_anchors
from online_draft.training.features import Features

HEADS = 3


def features(*sizes: tuple[int, int]) -> Features:
    """Records of (prompt, output) lengths whose token at position i is i + 1."""
    longest = max(prompt + output for prompt, output in sizes)
    at = torch.arange(1, longest + 1)
    lengths = torch.tensor([prompt + output for prompt, output in sizes])
    return Features(
        tokens_BT=torch.where(at <= lengths.unsqueeze(1), at, 0),
        starts_B=torch.tensor([prompt for prompt, _ in sizes]),
        lengths_B=lengths,
        temperatures_B=torch.zeros(len(sizes)),
        hidden_BTF=torch.zeros(len(sizes), longest, 1),
    )


def test_all_anchors_are_taken_when_there_are_few() -> None:
    anchors = sample_anchors(features((4, 6), (2, 3)), 50, HEADS, torch.Generator())
    assert anchors.positions_BA[0].tolist() == [3, 4, 5, 6, 7]
    assert anchors.positions_BA[1, :2].tolist() == [1, 2]
    assert anchors.weights_BAK[0].tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert anchors.weights_BAK[1].tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert torch.equal(anchors.total_BK, anchors.weights_BAK.sum(1).long())


def test_labels_parents_and_teachers_belong_together() -> None:
    anchors = sample_anchors(features((3, 40), (5, 9)), 6, HEADS, torch.Generator().manual_seed(1))
    real = anchors.weights_BAK > 0
    expected = anchors.positions_BA.unsqueeze(2) + torch.arange(HEADS)
    assert torch.equal(anchors.labels_BAK[real], (expected + 3)[real])
    assert torch.equal(anchors.parents_BAK[real], (expected + 2)[real])
    assert torch.equal(anchors.teachers_BAK[real], (expected + 1)[real])


def test_sampled_weights_give_every_label_its_full_weight_in_expectation() -> None:
    batch = features((3, 30), (6, 11), (1, 2))
    generator = torch.Generator().manual_seed(2)
    sums = torch.zeros(3, batch.tokens_BT.shape[1], HEADS)
    draws = 4000
    for _ in range(draws):
        anchors = sample_anchors(batch, 7, HEADS, generator)
        for record in range(3):
            sums[record].index_add_(0, anchors.positions_BA[record], anchors.weights_BAK[record])
    everything = sample_anchors(batch, 100, HEADS, generator)
    expected = torch.zeros_like(sums)
    for record in range(3):
        expected[record].index_add_(0, everything.positions_BA[record], everything.weights_BAK[record])
    torch.testing.assert_close(sums / draws, expected, rtol=0, atol=0.15)


def test_an_output_of_one_token_has_nothing_to_learn() -> None:
    anchors = sample_anchors(features((3, 1), (4, 0)), 8, HEADS, torch.Generator())
    assert not anchors.weights_BAK.any()
    assert not anchors.total_BK.any()
