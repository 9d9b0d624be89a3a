"""How far a head's distribution q is from the teacher's p and from the recorded token.

Shapes: X any leading shape, V vocabulary. All losses are per row; the caller weights rows.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from online_draft.errors import ConfigError

LossKind = Literal["kl+ce", "kl", "ce", "reverse_kl", "js", "tv", "tvd++", "overlap"]
LOSS_KINDS: tuple[LossKind, ...] = get_args(LossKind)

_TINY = 1e-12


def row_losses(logits_XV: Tensor, teacher_XV: Tensor, labels_X: Tensor, kind: LossKind = "kl+ce") -> Tensor:
    """Loss of each row [*X], differentiable in `logits_XV`; `teacher_XV` are log-probabilities.

    kl: forward KL(p||q) (DistillSpec, Zhou et al. 2024); ce: cross-entropy on the recorded token; js:
    Jensen-Shannon; tv: total variation; tvd++: total variation as policy gradient with normalised reward
    (Goel et al. 2024); overlap: -log sum min(p, q), the negative log of the chance that a draft is accepted.
    """
    log_q = logits_XV.log_softmax(-1)
    if kind == "ce":
        return _cross_entropy(log_q, labels_X)
    p = teacher_XV.exp()
    if kind in ("kl", "kl+ce"):
        entropy = -_expect(p, teacher_XV)
        if kind == "kl+ce":
            # Both terms in one product: the label is one more unit of teacher's mass.
            p = p.scatter_add(-1, labels_X.unsqueeze(-1), torch.ones_like(p[..., :1]))
        return -_expect(p, log_q) - entropy
    if kind not in LOSS_KINDS:
        raise ConfigError("loss", f"{kind!r} is not one of {', '.join(LOSS_KINDS)}")
    q = log_q.exp()
    if kind == "reverse_kl":
        return _expect(q, log_q - teacher_XV)
    if kind == "js":
        log_m = torch.logaddexp(teacher_XV, log_q) - math.log(2)
        return 0.5 * (_expect(p, teacher_XV - log_m) + _expect(q, log_q - log_m))
    if kind == "tv":
        return 0.5 * (p - q).abs().sum(-1)
    if kind == "tvd++":
        reward = (p > q).to(q.dtype)
        fixed = q.detach()
        mean = _expect(fixed, reward).unsqueeze(-1)
        deviation = (mean * (1 - mean)).clamp(min=0).sqrt()
        return _expect(q, (mean - reward) / (deviation + 1e-6))
    return -torch.minimum(p, q).sum(-1).clamp(min=_TINY).log()


def depth_weights(heads: int, decay: float, device: torch.device | str = "cpu") -> Tensor:
    """decay^k for head k = 0 ... heads - 1: a deep head counts only when the ones before it were right."""
    return decay ** torch.arange(heads, dtype=torch.float32, device=device)


def _expect(weights_XV: Tensor, values_XV: Tensor) -> Tensor:
    return (weights_XV * values_XV).sum(-1)


def _cross_entropy(log_q_XV: Tensor, labels_X: Tensor) -> Tensor:
    return -log_q_XV.gather(-1, labels_X.unsqueeze(-1)).squeeze(-1)
