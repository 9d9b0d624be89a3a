"""Packed rows are worth the same as one record a row."""

from __future__ import annotations

import pytest
import torch

from online_draft.models.artifact import new_drafter
from online_draft.models.loading import LoadedTarget
from online_draft.training.features import TokenRecord, extract
from online_draft.training.packing import extract_packed
from online_draft.training.trainer import Trainer, TrainerConfig

SIZES = {"window": 32, "num_heads": 3, "intermediate_size": 32}
KINDS = {
    "amphista": SIZES | {"sources": (0, 1, 0)},
    "context": SIZES | {"block_context": 4},
    "layers": SIZES | {"feature_layers": (1,)},
    "medusa": {"num_heads": 3},
}


def trainer(tiny: LoadedTarget, kind: str = "amphista", **settings: object) -> Trainer:
    method = "medusa" if kind == "medusa" else "amphista"
    drafter = new_drafter(method, tiny.target, **KINDS[kind])
    # Otherwise the block would start as the identity.
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for parameter in drafter.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.02 * drawn)
    return Trainer(drafter, tiny.target, TrainerConfig(warmup_steps=2, **settings))  # type: ignore[arg-type]


def gradients(learner: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in learner.drafter.named_parameters() if p.grad is not None}


def test_hidden_states_of_packed_records_are_those_of_each_alone(
    tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    rows = [greedy[:3], greedy[3:4], greedy[4:6]]
    packed = extract_packed(tiny.target, rows)
    alone = extract(tiny.target, greedy[:6])
    for index in range(6):
        row, start, length = packed.row_D[index], packed.offset_D[index], alone.lengths_B[index]
        torch.testing.assert_close(
            packed.rows.hidden_BTF[row, start : start + length],
            alone.hidden_BTF[index, :length],
            rtol=1e-9,
            atol=1e-11,
        )
    assert packed.offset_D.tolist()[:4] == [0, *alone.lengths_B[:2].cumsum(0).tolist(), 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("anchors", [5, 100])
def test_packed_records_give_the_loss_and_gradient_of_records_apart(
    kind: str, anchors: int, tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    warm = TokenRecord(greedy[5].prompt_ids, greedy[5].output_ids, temperature=0.6)
    records = [*greedy[:5], warm]
    apart, together = (trainer(tiny, kind, anchors=anchors) for _ in range(2))
    first = apart.slice(records)
    second = together.slice_packed([records[:3], records[3:4], records[4:]])
    assert second.tokens == first.tokens
    assert second.loss == pytest.approx(first.loss, rel=1e-9)
    assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-8)
    for name, gradient in gradients(apart).items():
        torch.testing.assert_close(gradients(together)[name], gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kind", ["amphista", "context"])
def test_a_record_sees_nothing_of_its_neighbours(
    kind: str, tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    learner = trainer(tiny, kind)
    other = TokenRecord(tuple(range(90, 99)), greedy[0].output_ids)
    seen = []
    for neighbour in (greedy[7], other):
        neighbour = TokenRecord(neighbour.prompt_ids, neighbour.output_ids[: 40 - len(neighbour.prompt_ids)])
        assert len(neighbour.prompt_ids) + len(neighbour.output_ids) >= 30
        packed = extract_packed(tiny.target, [[neighbour, greedy[1], neighbour]])
        start = int(packed.offset_D[1])
        length = int(packed.records.lengths_B[1])
        context = learner.drafter.context(packed.rows.rows_BTX, packed.rows.next_tokens_BT, packed.first_BT)
        position_N = torch.arange(start, start + length - 1)
        row_N = torch.zeros_like(position_N)
        seen.append(learner.drafter.at(context, row_N, position_N, packed.first_BT))
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-9, atol=1e-11)


def test_rows_may_be_longer_than_the_context(tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    context = tiny.config.max_position_embeddings
    rows = [list(greedy) * (context // 200)]
    learner = trainer(tiny, anchors=8)
    lengths = [len(r.prompt_ids) + len(r.output_ids) for r in rows[0]]
    assert sum(lengths) > context
    assert learner.slice_packed(rows).updated


def test_an_update_of_several_slices_is_that_of_one_with_all_records(
    tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    whole = trainer(tiny, anchors=100)
    parts = trainer(tiny, anchors=100, accumulate=3)
    one = whole.slice(greedy[:7])
    metrics = [parts.slice(some) for some in (greedy[:3], greedy[3:4], greedy[4:7])]
    assert [m.updated for m in metrics] == [False, False, True]
    assert (parts.steps, parts.slices) == (1, 3)
    assert metrics[-1].grad_norm == pytest.approx(one.grad_norm, rel=1e-9)
    for a, b in zip(whole.drafter.parameters(), parts.drafter.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
