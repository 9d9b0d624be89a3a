from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from online_draft.errors import ConfigError
from online_draft.training.losses import LOSS_KINDS, depth_weights, row_losses

Row = list[float]


def kl(p: Row, q: Row) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def middle(p: Row, q: Row) -> Row:
    return [(a + b) / 2 for a, b in zip(p, q, strict=True)]


def tvd_plus(p: Row, q: Row) -> float:
    reward = [1.0 if a > b else 0.0 for a, b in zip(p, q, strict=True)]
    mean = sum(b * r for b, r in zip(q, reward, strict=True))
    deviation = math.sqrt(sum(b * (r - mean) ** 2 for b, r in zip(q, reward, strict=True)))
    return -sum(b * (r - mean) / (deviation + 1e-6) for b, r in zip(q, reward, strict=True))


REFERENCES: dict[str, Callable[[Row, Row, int], float]] = {
    "ce": lambda p, q, label: -math.log(q[label]),
    "kl": lambda p, q, label: kl(p, q),
    "kl+ce": lambda p, q, label: kl(p, q) - math.log(q[label]),
    "reverse_kl": lambda p, q, label: kl(q, p),
    "js": lambda p, q, label: (kl(p, middle(p, q)) + kl(q, middle(p, q))) / 2,
    "tv": lambda p, q, label: sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2,
    "tvd++": lambda p, q, label: tvd_plus(p, q),
    "overlap": lambda p, q, label: -math.log(sum(min(a, b) for a, b in zip(p, q, strict=True))),
}


def example(rows: int = 6, vocab: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(2, rows, vocab, generator=generator, dtype=torch.float64)
    teacher = (2 * torch.randn(2, rows, vocab, generator=generator, dtype=torch.float64)).log_softmax(-1)
    return logits, teacher, torch.randint(0, vocab, (2, rows), generator=generator)


@pytest.mark.parametrize("kind", LOSS_KINDS)
def test_each_loss_equals_its_definition(kind: str) -> None:
    logits, teacher, labels = example()
    losses = row_losses(logits, teacher, labels, kind)  # type: ignore[arg-type]
    q, p = logits.softmax(-1), teacher.exp()
    for index in range(2):
        for row in range(6):
            expected = REFERENCES[kind](
                p[index, row].tolist(), q[index, row].tolist(), int(labels[index, row])
            )
            assert float(losses[index, row]) == pytest.approx(expected, abs=1e-9)
    rounded = row_losses(logits.float(), teacher.float(), labels, kind)  # type: ignore[arg-type]
    torch.testing.assert_close(rounded.double(), losses, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in LOSS_KINDS if kind not in ("tvd++", "tv")])
def test_gradients_equal_finite_differences(kind: str) -> None:
    logits, teacher, labels = example(rows=2, vocab=5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: row_losses(x, teacher, labels, kind),
        (logits,),  # type: ignore[arg-type]
    )


def test_tvd_plus_follows_the_gradient_of_total_variation_row_by_row() -> None:
    logits, teacher, labels = example()
    slopes = []
    for kind in ("tv", "tvd++"):
        free = logits.clone().requires_grad_()
        row_losses(free, teacher, labels, kind).sum().backward()  # type: ignore[arg-type]
        assert free.grad is not None
        slopes.append(free.grad)
    cosine = torch.nn.functional.cosine_similarity(slopes[0], slopes[1], dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("kind", ["kl", "reverse_kl", "js", "tv", "overlap"])
def test_a_perfect_head_has_no_distance(kind: str) -> None:
    _, teacher, labels = example()
    losses = row_losses(teacher, teacher, labels, kind)  # type: ignore[arg-type]
    torch.testing.assert_close(losses, torch.zeros_like(losses))


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(ConfigError, match="mse"):
        row_losses(*example(), "mse")  # type: ignore[arg-type]


def test_depth_weights_fall_geometrically() -> None:
    torch.testing.assert_close(depth_weights(3, 0.8), torch.tensor([1.0, 0.8, 0.64]))
