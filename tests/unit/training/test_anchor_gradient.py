"""Sampled anchors against the loss over all of them, without a dice roll: every start is tried."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from online_draft.models.artifact import new_drafter
from online_draft.models.loading import LoadedTarget
from online_draft.training import anchors as anchors_module
from online_draft.training.anchors import sample_anchors
from online_draft.training.features import TokenRecord, extract
from online_draft.training.trainer import Trainer, TrainerConfig


def start_at(offset: float) -> Callable[..., Tensor]:
    """Instead of `torch.rand`: every record's first anchor starts here."""
    return lambda shape, generator: torch.full(tuple(shape), offset)


@pytest.mark.parametrize("sizes", [{}, {"block_context": 4}, {"stages": 0, "block_layers": 0}])
@pytest.mark.parametrize("count", [3, 7])
def test_the_mean_over_all_starts_is_the_full_gradient(
    count: int,
    sizes: dict[str, int],
    tiny: LoadedTarget,
    greedy: list[TokenRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drafter = new_drafter("amphista", tiny.target, window=16, num_heads=3, intermediate_size=16, **sizes)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in drafter.parameters():
            parameter.normal_(std=0.2)
    learner = Trainer(drafter, tiny.target, TrainerConfig())
    record = greedy[2]
    features = extract(tiny.target, [record])
    candidates = len(record.output_ids) - 1
    named = dict(drafter.named_parameters())

    def gradients(anchors: int) -> list[Tensor]:
        chosen = sample_anchors(features, anchors, 3, torch.Generator())
        loss = learner._loss(features, chosen)
        return list(torch.autograd.grad(loss, list(named.values())))

    full = gradients(10_000)
    sums = [torch.zeros_like(weight) for weight in full]
    seen = []
    # Which positions are taken changes only where a start passes a multiple of 1 / candidates.
    for step in range(candidates):
        monkeypatch.setattr(anchors_module.torch, "rand", start_at((step + 0.5) / candidates))
        seen.append(gradients(count))
        for total, part in zip(sums, seen[-1], strict=True):
            total += part / candidates
    for name, mean, expected in zip(named, sums, full, strict=True):
        torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-9, msg=name)
    spread = max(
        float((one - whole).norm() / whole.norm())
        for part in seen
        for one, whole in zip(part, full, strict=True)
    )
    assert spread > 0.05, "the samples differ from one another"
