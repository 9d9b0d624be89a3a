"""What keeps a single bad record, or a bad hour, from spoiling the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from online_draft.models.artifact import new_drafter
from online_draft.models.loading import LoadedTarget
from online_draft.training.features import TokenRecord
from online_draft.training.leash import Leash
from online_draft.training.outliers import inliers
from online_draft.training.packing import fitted_rows
from online_draft.training.trainer import Trainer, TrainerConfig


def trainer(tiny: LoadedTarget, **settings: float) -> Trainer:
    drafter = new_drafter("amphista", tiny.target, window=32, num_heads=3, intermediate_size=32)
    return Trainer(drafter, tiny.target, TrainerConfig(warmup_steps=2, **settings))  # type: ignore[arg-type]


def spread(learner: Trainer) -> float:
    return float(torch.stack([p.detach().norm() for p in learner.drafter.parameters()]).norm())


def test_only_far_out_anchors_are_left_out_and_never_many() -> None:
    generator = torch.Generator().manual_seed(0)
    losses_BAK = 2 + torch.rand(4, 25, 1, generator=generator).repeat(1, 1, 3)
    weights_BAK = torch.ones(4, 25, 3)
    assert inliers(losses_BAK, weights_BAK, 0.1).all(), "nothing is far out"
    losses_BAK[0, :3] = 90.0
    kept_BA = inliers(losses_BAK, weights_BAK, 0.1)
    assert not kept_BA[0, :3].any() and int(kept_BA.sum()) == 97
    losses_BAK[1] = 95.0
    assert int((~inliers(losses_BAK, weights_BAK, 0.1)).sum()) <= 10
    assert inliers(losses_BAK, weights_BAK, 0.0).all()


def test_labels_that_are_not_there_do_not_count() -> None:
    losses_BAK = torch.ones(1, 40, 2)
    losses_BAK[0, 3, 0], losses_BAK[0, 4, 1] = float("inf"), 500.0
    weights_BAK = torch.ones(1, 40, 2)
    weights_BAK[0, 3, 0] = 0
    kept_BA = inliers(losses_BAK, weights_BAK, 0.1)
    assert (~kept_BA).nonzero().tolist() == [[0, 4]]


def test_a_record_of_nonsense_moves_a_trimming_student_less(
    tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    nonsense = TokenRecord(greedy[0].prompt_ids, tuple((97 * i) % 256 for i in range(3)))
    moved = []
    for trim in (0.0, 0.5):
        learner = trainer(tiny, trim=trim)
        for _ in range(30):
            learner.slice(greedy[:4])
        before = [p.detach().clone() for p in learner.drafter.parameters()]
        learner.slice([*greedy[:4], nonsense])
        clean = trainer(tiny, trim=trim)
        for _ in range(30):
            clean.slice(greedy[:4])
        clean.slice(greedy[:4])
        pairs = zip(learner.drafter.parameters(), clean.drafter.parameters(), before, strict=True)
        moved.append(sum(float((a - b).detach().norm()) for a, b, _ in pairs))
    assert moved[1] < moved[0]


def test_weights_stay_within_the_leash_of_where_they_were_tied(
    tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    learner = trainer(tiny, leash=0.01, learning_rate=1e-2)
    start = {name: p.detach().clone() for name, p in learner.drafter.named_parameters()}
    norm = spread(learner)
    for _ in range(10):
        learner.slice(greedy[:4])
    away = torch.stack(
        [(p.detach() - start[name]).norm() for name, p in learner.drafter.named_parameters()]
    ).norm()
    assert float(away) == pytest.approx(0.01 * norm, rel=1e-6)
    assert learner.leash is not None and learner.leash.pulls > 0
    learner.leash.tie(dict(learner.drafter.named_parameters()))
    pulls = learner.leash.pulls
    learner.slice(greedy[:4])
    assert learner.leash.hold(dict(learner.drafter.named_parameters())) <= 0.01 + 1e-9
    assert learner.leash.pulls <= pulls + 1


def test_a_leash_moves_straight_back() -> None:
    weights = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    leash = Leash(weights, 0.5)
    weights["a"] += torch.tensor([0.0, 10.0])
    assert leash.hold(weights) == pytest.approx(2.0)
    assert weights["a"].tolist() == pytest.approx([3.0, 2.5]) and weights["b"].tolist() == [4.0]


def test_rewinding_goes_back_to_finite_averages_only(
    tiny: LoadedTarget, greedy: list[TokenRecord], tmp_path: Path
) -> None:
    learner = trainer(tiny, ema=0.9)
    for _ in range(3):
        learner.slice(greedy[:4])
    average = [p.clone() for p in learner.candidate().parameters()]
    with torch.no_grad():
        learner.drafter.get_parameter("place_KF")[0, 0] = float("nan")
    assert not learner.slice(greedy[:4]).updated
    assert learner.rewind()
    assert all(torch.equal(a, b) for a, b in zip(average, learner.drafter.parameters(), strict=True))
    learner.save(tmp_path / "state")
    twin = trainer(tiny, ema=0.9)
    twin.load(tmp_path / "state")
    assert learner.slice(greedy[:4]).updated and twin.slice(greedy[:4]).updated
    learner._ema["place_KF"][0, 0] = float("inf")
    assert not learner.rewind()
    assert not trainer(tiny).rewind(), "no average is kept"


def test_a_factor_scales_the_learning_rate(tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    still, quick = trainer(tiny), trainer(tiny)
    still.rate = 0.0
    before = [p.detach().clone() for p in still.drafter.parameters()]
    still.slice(greedy[:4])
    quick.slice(greedy[:4])
    assert all(torch.equal(a, b) for a, b in zip(before, still.drafter.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, quick.drafter.parameters(), strict=True))


@pytest.mark.parametrize("asked", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_an_interrupted_slice_changes_nothing(
    asked: int, packed: bool, tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    learner = trainer(tiny)
    learner.slice(greedy[:4])
    before = {name: tensor.clone() for name, tensor in learner.drafter.state_dict().items()}
    answers = iter([False] * (asked - 1) + [True])
    if packed:
        metrics = learner.slice_packed([greedy[:2], greedy[2:4]], lambda: next(answers))
    else:
        metrics = learner.slice(greedy[:4], lambda: next(answers))
    assert metrics.interrupted and not metrics.updated
    assert (learner.steps, learner.skipped, learner.slices) == (1, 0, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.drafter.state_dict().items())
    assert learner.slice(greedy[:4]).updated


def test_records_are_fitted_into_rows_no_wider_than_the_longest() -> None:
    records = [TokenRecord((1,) * 3, (2,) * length) for length in (17, 2, 5, 7, 1, 30)]
    rows = fitted_rows(records, 24)
    assert sorted(id(record) for row in rows for record in row) == sorted(map(id, records))
    widths = [sum(min(24, 3 + len(record.output_ids)) for record in row) for row in rows]
    assert widths[0] == 24 and max(widths) == 24 and len(rows) == 3
    assert fitted_rows([], 24) == []


def test_the_state_can_be_made_bytes_of_later(
    tiny: LoadedTarget, greedy: list[TokenRecord], tmp_path: Path
) -> None:
    from online_draft.training.trainer_state import state_bytes

    learner = trainer(tiny, ema=0.5)
    learner.slice(greedy[:4])
    learner.save(tmp_path / "a")
    (tmp_path / "b").write_bytes(state_bytes(*learner.state()))
    twins = [trainer(tiny, ema=0.5), trainer(tiny, ema=0.5)]
    for twin, name in zip(twins, "ab", strict=True):
        twin.load(tmp_path / name)
    pairs = zip(*(twin.candidate().parameters() for twin in twins), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)
