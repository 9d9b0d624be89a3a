from __future__ import annotations

from pathlib import Path

import pytest
import torch

from online_draft.errors import ArtifactError, ConfigError
from online_draft.models.artifact import new_drafter
from online_draft.models.loading import LoadedTarget
from online_draft.training.anchors import sample_anchors
from online_draft.training.features import TokenRecord, extract
from online_draft.training.losses import row_losses
from online_draft.training.trainer import Trainer, TrainerConfig

SIZES = {"window": 32, "num_heads": 3, "intermediate_size": 32}


def trainer(tiny: LoadedTarget, **settings: object) -> Trainer:
    drafter = new_drafter("amphista", tiny.target, **SIZES)
    return Trainer(drafter, tiny.target, TrainerConfig(warmup_steps=2, **settings))  # type: ignore[arg-type]


def same(a: Trainer, b: Trainer) -> bool:
    pairs = zip(a.drafter.state_dict().values(), b.drafter.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("kind", ["amphista", "medusa"])
def test_slices_lower_the_loss(kind: str, tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    drafter = new_drafter(kind, tiny.target, window=32, num_heads=3)
    learner = Trainer(drafter, tiny.target, TrainerConfig(learning_rate=5e-3, warmup_steps=2))
    losses = [learner.slice(greedy[:8]).loss for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    metrics = learner.slice(greedy[:8])
    assert metrics.updated
    assert metrics.tokens == sum(len(record.output_ids) - 1 for record in greedy[:8])
    assert metrics.seconds > 0
    assert metrics.grad_norm > 0


def test_the_loss_is_the_weighted_mean_over_all_labels(tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    learner = trainer(tiny, depth_decay=0.7)
    record = greedy[3]
    features = extract(tiny.target, [record])
    tokens, start = [*record.prompt_ids, *record.output_ids], len(record.prompt_ids)
    total, weights = 0.0, 0.0
    with torch.no_grad():
        for anchor in range(start - 1, len(tokens) - 2):
            for head in range(3):
                if anchor + 2 + head >= len(tokens):
                    continue
                parents = torch.tensor([[[tokens[min(anchor + 1 + k, len(tokens) - 1)] for k in range(3)]]])
                logits = learner.drafter.head_logits(
                    features.hidden_BTF, features.next_tokens_BT, torch.tensor([[anchor]]), parents
                )[0, 0, head]
                teacher = tiny.target.logits(features.hidden_BTF[0, anchor + 1 + head]).log_softmax(-1)
                label = torch.tensor(tokens[anchor + 2 + head])
                total += 0.7**head * float(row_losses(logits, teacher, label))
                weights += 0.7**head
    assert learner.slice([record]).loss == pytest.approx(total / weights, rel=1e-6)


def test_sampled_anchors_give_the_full_gradient_in_expectation(
    tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    learner = trainer(tiny)
    features = extract(tiny.target, greedy[:3])
    generator = torch.Generator().manual_seed(0)
    weight = learner.drafter.get_parameter("residual_KFF")

    def gradient(count: int, draws: int) -> torch.Tensor:
        total = torch.zeros_like(weight)
        for _ in range(draws):
            loss = learner._loss(features, sample_anchors(features, count, 3, generator))
            total += torch.autograd.grad(loss, weight)[0]
        return total / draws

    full, sampled = gradient(100, 1), gradient(6, 150)
    assert float((sampled - full).norm() / full.norm()) < 0.1
    assert float((gradient(6, 1) - full).norm() / full.norm()) > 0.15


def test_the_teacher_has_the_records_temperature(tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    warm = TokenRecord(greedy[0].prompt_ids, greedy[0].output_ids, temperature=0.5)
    learner = trainer(tiny)
    features = extract(tiny.target, [greedy[0], warm])
    positions = torch.full((2, 1, 1), 9)
    teacher = learner._teacher(features, positions)
    logits = tiny.target.logits(features.hidden_BTF[0, 9])
    torch.testing.assert_close(teacher[0, 0, 0], logits.log_softmax(-1))
    torch.testing.assert_close(teacher[1, 0, 0], (2 * logits).log_softmax(-1))


def test_equal_seeds_train_equal_weights(tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    first, second = trainer(tiny, anchors=5), trainer(tiny, anchors=5)
    for _ in range(3):
        first.slice(greedy[:4])
        second.slice(greedy[:4])
    assert same(first, second)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_saved_trainer_goes_on_as_if_nothing_had_happened(
    ema: float, tiny: LoadedTarget, greedy: list[TokenRecord], tmp_path: Path
) -> None:
    first = trainer(tiny, anchors=5, ema=ema)
    for step in range(3):
        first.slice(greedy[step : step + 4])
    first.save(tmp_path / "state")
    second = trainer(tiny, anchors=5, ema=ema)
    second.load(tmp_path / "state")
    assert (second.steps, second.skipped) == (3, 0)
    for _ in range(3):
        assert first.slice(greedy[4:8]).loss == second.slice(greedy[4:8]).loss
    assert same(first, second)
    pairs = zip(first.candidate().parameters(), second.candidate().parameters(), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_state_that_does_not_fit_is_refused(tiny: LoadedTarget, tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(ArtifactError, match="can't be used"):
        trainer(tiny).load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="can't be used"):
        trainer(tiny).load(path)
    other = Trainer(new_drafter("medusa", tiny.target, num_heads=3), tiny.target)
    other.save(path)
    with pytest.raises(ArtifactError, match="can't be used"):
        trainer(tiny).load(path)


def test_a_bad_update_is_skipped_and_counted(tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    learner = trainer(tiny)
    learner.slice(greedy[:4])
    before = {name: tensor.clone() for name, tensor in learner.drafter.state_dict().items()}
    spoiled = learner.drafter.get_parameter("place_KF")
    with torch.no_grad():
        good = spoiled.clone()
        spoiled[0, 0] = float("nan")
    metrics = learner.slice(greedy[:4])
    assert not metrics.updated
    assert (learner.steps, learner.skipped) == (1, 1)
    with torch.no_grad():
        spoiled.copy_(good)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.drafter.state_dict().items())
    assert learner.slice(greedy[:4]).updated


def test_records_without_anything_to_learn_are_left_out(
    tiny: LoadedTarget, greedy: list[TokenRecord]
) -> None:
    learner = trainer(tiny)
    assert not learner.slice([TokenRecord((1, 2), (3,))]).updated
    assert not learner.slice([]).updated
    assert (learner.steps, learner.skipped) == (0, 0)
    assert learner.slice([TokenRecord((1, 2), (3,)), greedy[0]]).updated


def test_records_beyond_the_limit_are_cut_off(tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    learner = trainer(tiny, max_tokens=10)
    assert learner.slice([greedy[0]]).tokens == 10 - len(greedy[0].prompt_ids) - 1
    long_prompt = TokenRecord(tuple(range(30)), (1, 2, 3))
    assert not learner.slice([long_prompt]).updated


def test_the_candidate_is_a_frozen_copy(tiny: LoadedTarget, greedy: list[TokenRecord]) -> None:
    learner = trainer(tiny, ema=0.5)
    learner.slice(greedy[:4])
    candidate = learner.candidate()
    before = [parameter.clone() for parameter in candidate.parameters()]
    assert not any(parameter.requires_grad for parameter in candidate.parameters())
    learner.slice(greedy[:4])
    assert all(torch.equal(x, y) for x, y in zip(before, candidate.parameters(), strict=True))


@pytest.mark.parametrize(
    ("field", "value"), [("loss", "mse"), ("ema", 1.0), ("anchors", 0), ("learning_rate", -1)]
)
def test_a_wrong_setting_names_its_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        TrainerConfig(**{field: value})  # type: ignore[arg-type]
